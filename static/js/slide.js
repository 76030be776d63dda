// While one chart is dragged the others follow: their lines are moved as they are, which costs no computing but painting.
// Where painting is slow, as without a GPU and with a hundred runs, they wait for the end: the hand must not feel them.

const SLOW_MS = 50;
const SLOW_FRAMES = 3;

export class Slide {
  // `charts()` gives those that are near the screen.
  constructor(charts) {
    this.charts = charts;
    this.asked = null;
    this.slow = 0;
  }

  // `source` is being dragged and shows this window now.
  move(source, window) {
    this.window = window;
    this.asked ??= requestAnimationFrame((at) => {
      this.asked = null;
      const passed = at - (this.before ?? at);
      this.before = at;
      if (passed < 4 * SLOW_MS) this.slow = passed > SLOW_MS ? this.slow + 1 : 0;
      if (this.slow > SLOW_FRAMES) return;
      for (const chart of this.charts()) if (chart !== source && isOnScreen(chart.frame)) chart.slide(this.window);
    });
  }

  end() {
    cancelAnimationFrame(this.asked);
    this.asked = null;
    this.before = null;
    this.slow = 0;
  }
}

function isOnScreen(element) {
  const { top, bottom } = element.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}
