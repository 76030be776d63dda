// A run's live figures, wherever the page shows them: [data-run] with [data-field] parts inside.

import { count, duration, fill, number, percent } from "./format.js";
import { words } from "./words.js";

export function showRun(run) {
  document.dispatchEvent(new CustomEvent("runchange", { detail: run }));
  for (const element of document.querySelectorAll(`[data-run="${CSS.escape(run.id)}"]`)) {
    const set = (field, text) => {
      const part = element.querySelector(`[data-field="${field}"]`);
      if (part && part.textContent !== text) part.textContent = text;
    };
    const bar = element.querySelector('[data-field="progress"]');
    if (bar && run.progress != null) bar.value = run.progress * 100;
    const steps = run.total_steps
      ? fill(words.steps_of, { step: count(run.step), total: count(run.total_steps) })
      : fill(words.step, { step: count(run.step) });
    set("percent", run.progress == null ? steps : fill(words.percent, { n: Math.floor(run.progress * 100) }));
    set("progress-text", steps);
    set("eta", run.eta_s == null ? "" : fill(words.time_left, { time: duration(run.eta_s) }));
    set("phase", run.phase !== "training" ? phaseText(run.phase) : "");
    set("best-accuracy", percent(run.summary["val/accuracy"]?.max));
    set("val-loss", number(run.summary["val/loss"]?.last));
    showState(element, run);
  }
}

// The trainer writes its phase in English; app/web/rows.py translates it in the page, this one while it changes.
function phaseText(phase) {
  const [, epoch] = /^evaluating epoch (\d+)$/.exec(phase) ?? [];
  if (epoch) return fill(words.evaluating, { epoch });
  const [, title] = /^Downloading (.+)$/.exec(phase) ?? [];
  if (title) return fill(words.downloading, { title });
  const [, worker] = /^waits for worker (.+): its disk has /.exec(phase) ?? [];
  if (worker) return fill(words.no_room, { worker });
  const [, gpus, most] = /^waits for (\d+) GPUs of one host; no worker (?:has any|here has more than (\d+))$/.exec(phase) ?? [];
  if (gpus) return fill(most ? words.few_gpus : words.no_gpus, { count: gpus, most });
  return words[phase] ?? phase;
}

function showState(element, run) {
  const badge = element.querySelector('[data-field="state"]');
  element.dataset.state = run.state;
  if (!badge) return;
  const asked = run.state === "running" && (run.cancel_requested ? "canceling" : run.pause_requested && "pausing");
  badge.className = `badge badge-${run.state}`;
  badge.textContent = words[asked || run.state];
}

// What the buttons, the events and the error depend on; a change of it asks for the page's parts again.
export function stateKey(run) {
  return [run.state, run.attempt, run.cancel_requested, run.pause_requested, run.name].join("|");
}
