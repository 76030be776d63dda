// When charts are drawn: soon, each once however often it was asked for, and never so often that the page has no time left.

const USUAL_MS = 200; // live points come a few times a second
const SHARE = 4; // a round of drawing that took t is followed by a rest of 4 t
const MOST_MS = 2000;

export class Pace {
  constructor() {
    this.dirty = new Set();
    this.timer = null;
    this.drawing = false;
    this.rest = 0;
    this.ended = 0;
  }

  // `soon`: someone waits for it, as after a click; live points have time.
  plan(chart, soon = true) {
    this.dirty.add(chart);
    if (soon) this.rest = 0;
    if (this.drawing || (this.timer && !soon)) return;
    clearTimeout(this.timer);
    const wait = Math.max(0, this.ended + this.rest - performance.now());
    this.timer = setTimeout(() => requestAnimationFrame(() => this.round()), wait);
  }

  async round() {
    if (this.drawing) return;
    this.drawing = true;
    this.timer = null;
    this.rest = USUAL_MS;
    const start = performance.now();
    const charts = [...this.dirty];
    this.dirty.clear();
    for (const chart of charts) {
      try {
        await chart.draw();
      } catch (error) {
        console.error(error);
      }
      await new Promise((resolve) => setTimeout(resolve)); // the mouse and the keyboard come between two charts
    }
    this.ended = performance.now();
    if (this.rest) this.rest = Math.min(MOST_MS, Math.max(USUAL_MS, SHARE * (this.ended - start)));
    this.drawing = false;
    const [waiting] = this.dirty;
    if (waiting) this.plan(waiting, this.rest === 0);
  }
}
