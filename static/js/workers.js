// The workers page: progress live, the rest drawn anew when a run changes its state and now and then.

import { refreshFragments } from "./page.js";
import { showRun, stateKey } from "./runview.js";
import { openStream } from "./stream.js";

const keys = new Map();
openStream([], {}, {
  open: (again) => again && refreshFragments(),
  run: (run) => {
    showRun(run);
    if (keys.get(run.id) !== stateKey(run)) refreshFragments();
    keys.set(run.id, stateKey(run));
  },
});
