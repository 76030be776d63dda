// When charts are drawn: soon, each once however often it was asked for, and never so often that the page has no time left.

const USUAL_MS = 200; // live points come a few times a second
const SHARE = 4; // a round of drawing that took t is followed by a rest of 4 t

export class Pace {
  constructor() {
    this.dirty = new Set();
    this.asked = false;
    this.rest = 0;
    this.ended = 0;
  }

  // `now`: someone waits for it, as after a click.
  plan(chart, now = false) {
    this.dirty.add(chart);
    if (now) this.rest = 0;
    if (this.asked) return;
    this.asked = true;
    setTimeout(() => requestAnimationFrame(() => this.round()), Math.max(0, this.ended + this.rest - performance.now()));
  }

  async round() {
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
    this.rest = Math.max(USUAL_MS, SHARE * (this.ended - start));
    this.asked = false;
    for (const chart of this.dirty) {
      this.plan(chart);
      break;
    }
  }
}
