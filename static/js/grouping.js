// Which runs of a page are alike in some settings: what groups are called, and the look that they have.

import { fill } from "./format.js";
import { COLOURS, DASHES } from "./marks.js";
import { view } from "./view.js";
import { words } from "./words.js";

export const groupId = (key) => JSON.stringify(key);

export class Grouping {
  // `fields` are [{name, title, values, texts}] with one value a run, in the order of `runs`.
  constructor(fields, runs) {
    this.fields = new Map(fields.map((field) => [field.name, field]));
    this.order = new Map(runs.map((run, i) => [run.id, i]));
    this.runs = runs;
  }

  title(name) {
    return this.fields.get(name)?.title ?? name;
  }

  // [{id, name, runs, first, look}] of the settings that the view groups by; the same look whoever is hidden.
  groups() {
    const key = view.group.join("\n");
    if (key !== this.key) {
      this.key = key;
      const found = Map.groupBy(this.runs, (run) => groupId(this.keyOf(run)));
      this.found = [...found].map(([id, members]) => ({ id, name: this.nameOf(members[0]), runs: members.map((run) => run.id), first: members[0] }));
      giveLooks(this.found, this.order, this.runs);
      this.byId = new Map(this.found.map((group) => [group.id, group]));
    }
    return this.found;
  }

  find(key) {
    this.groups();
    return this.byId.get(groupId(key));
  }

  keyOf(run) {
    const i = this.order.get(run.id);
    return Object.fromEntries(view.group.map((name) => [name, this.fields.get(name).values[i]]));
  }

  // "LeNet, Learning rate 0.1": a model needs no title.
  nameOf(run) {
    const i = this.order.get(run.id);
    const parts = view.group.map((name) => {
      const { title, texts } = this.fields.get(name);
      return name === "model" ? texts[i] : fill(words.group_value, { field: title, value: texts[i] });
    });
    return parts.join(", ");
  }
}

// A group has the look of one of its runs, so long as no group before it has that colour; otherwise the next free one.
function giveLooks(groups, order, runs) {
  const taken = new Set();
  for (const group of groups) {
    const own = group.runs.map((id) => runs[order.get(id)].colour);
    const all = [...own, ...Array.from({ length: COLOURS }, (_, i) => (own[0] + i) % COLOURS)];
    const dash = Math.floor(taken.size / COLOURS) % DASHES.length;
    const colour = all.find((one) => !taken.has(dash * COLOURS + one)) ?? own[0];
    taken.add(dash * COLOURS + colour);
    group.look = { colour, dash };
  }
}
