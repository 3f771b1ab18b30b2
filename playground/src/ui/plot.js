/**
 * Plots on a canvas, sharp on any screen, in the book's colors. Scales and ticks are d3-scale's.
 *
 * A plot has two layers. The back (axes, contours, curves that stay) is drawn once for each key
 * and kept; the front is drawn in every frame.
 */
import { scaleLinear, scaleLog } from "d3-scale";
import { h, superscript } from "./dom.js";
import { Painter } from "./painter.js";
import { onThemeChange, readTheme } from "./theme.js";

/** @typedef {import("./painter.js").Interval} Interval */
/** @typedef {import("./painter.js").Theme} Theme */
/** @typedef {import("./painter.js").Color} Color */
/** @typedef {import("./painter.js").Style} Style */

/**
 * @typedef {object} Axis
 * @property {string} label
 * @property {Interval} domain
 * @property {boolean} [log]
 * @property {number[]} [ticks]
 * @property {(value: number) => string} [format]
 * @property {number} [unit] what a one of the data is called on the axis, if not 1
 */

/**
 * @typedef {object} Entry one line of a legend
 * @property {string} text
 * @property {Color} color
 * @property {"line" | "dashed" | "dotted" | "dot" | "up" | "down" | "area" | "words"} shape of its
 *     swatch; words have none
 */

/**
 * @typedef {object} Behind what is drawn between the back and the front
 * @property {Entry[]} entries for the end of the legend
 * @property {string} words for the end of what the plot says
 * @property {(painter: Painter) => void} paint
 */

export { Painter };

const MARGIN = { left: 48, right: 12, top: 24, bottom: 40 };

export class Plot {
  #canvas = h("canvas", { role: "img" });
  #box = h("div", { class: "pg-canvas" });
  #back = document.createElement("canvas");
  #backKey = "";
  #legend = h("span", { class: "pg-legend" });
  #legendKey = "";
  /** @type {Entry[]} */
  #entries = [];
  /** @type {Behind} */
  #behind = { entries: [], words: "", paint() {} };
  #width = 0;
  #height = 0;
  /** @type {Theme | undefined} */
  #theme;

  /**
   * @param {object} options
   * @param {string} options.title
   * @param {Axis} options.x
   * @param {Axis} options.y
   * @param {number | ((width: number) => number)} [options.aspect] width over height
   * @param {boolean} [options.equal] the same scale on both axes: domains are widened to fit
   * @param {() => void} options.redraw asks for a new frame
   */
  constructor({ title, x, y, aspect = 1.25, equal = false, redraw }) {
    this.title = title;
    this.x = x;
    this.y = y;
    this.equal = equal;
    this.aspect = aspect;
    this.#box.append(this.#canvas);
    this.element = h(
      "figure",
      { class: "pg-plot" },
      h("figcaption", {}, h("span", { class: "pg-title" }, title), this.#legend),
      this.#box,
    );
    new ResizeObserver(() => {
      const width = Math.floor(this.#box.clientWidth);
      if (width === this.#width) return;
      this.#width = width;
      const { aspect } = this;
      this.#height = Math.round(width / (typeof aspect === "number" ? aspect : aspect(width)));
      this.#backKey = "";
      redraw();
    }).observe(this.#box);
    onThemeChange(() => {
      this.#theme = undefined;
      this.#backKey = "";
      redraw();
    });
  }

  /** What is drawn, to be copied. */
  get canvas() {
    return this.#canvas;
  }

  /** What the plot shows now, in words. @param {string} text */
  describe(text) {
    const whole = text + this.#behind.words;
    if (this.#canvas.getAttribute("aria-label") !== whole) {
      this.#canvas.setAttribute("aria-label", whole);
    }
  }

  /** From now on something is drawn behind the front, too. @param {Behind} behind */
  behind(behind) {
    this.#behind = behind;
    this.#backKey = "";
    this.legend(this.#entries);
  }

  /** The lines of the legend, as it stands. */
  get entries() {
    return [...this.#entries, ...this.#behind.entries];
  }

  /** @param {Entry[]} own */
  legend(own) {
    this.#entries = own;
    const { entries } = this;
    const key = JSON.stringify(entries);
    if (key === this.#legendKey) return;
    this.#legendKey = key;
    this.#legend.replaceChildren(
      ...entries.map(({ text, color, shape }) =>
        h(
          "span",
          { class: "pg-entry" },
          h("span", {
            class: `pg-swatch pg-${shape}`,
            style: `--swatch: var(--pg-${color})`,
            "aria-hidden": "true",
          }),
          text,
        ),
      ),
    );
  }

  /**
   * Call a function with the place, in units of the axes, where the reader presses or drags.
   *
   * @param {(x: number, y: number) => void} move
   */
  onDrag(move) {
    const canvas = this.#canvas;
    canvas.classList.add("pg-drag");
    /** @param {PointerEvent} event */
    const report = (event) => {
      const box = canvas.getBoundingClientRect();
      const { x, y } = this.#scales();
      // A drag that leaves the axes stays at their end.
      const [left, right] = x.range();
      const [bottom, top] = y.range();
      move(
        Number(x.invert(Math.min(right, Math.max(left, event.clientX - box.left)))),
        Number(y.invert(Math.min(bottom, Math.max(top, event.clientY - box.top)))),
      );
    };
    let held = false;
    // A finger that goes up or down scrolls the page. It is followed only once it moves along; a
    // finger that is lifted where it was put has pointed at a place.
    let follows = true;
    let [startX, startY] = [0, 0];
    canvas.addEventListener("pointerdown", (event) => {
      held = event.isPrimary && event.button === 0;
      if (!held) return;
      canvas.setPointerCapture(event.pointerId);
      follows = event.pointerType !== "touch";
      [startX, startY] = [event.clientX, event.clientY];
      if (follows) report(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!held || !event.isPrimary) return;
      follows ||= Math.abs(event.clientX - startX) > Math.abs(event.clientY - startY);
      if (follows) report(event);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (held && event.isPrimary && !follows) report(event);
      held = false;
    });
    canvas.addEventListener("pointercancel", () => {
      held = false;
    });
  }

  /**
   * @param {string} key of the back: it is drawn again when this changes
   * @param {(painter: Painter) => void} back
   * @param {(painter: Painter) => void} front
   */
  draw(key, back, front) {
    if (this.#width < 40) return;
    this.#theme ??= readTheme(this.element);
    const ratio = window.devicePixelRatio || 1;
    const { x, y } = this.#scales();
    const full = [key, ratio, this.#width, ...x.domain(), ...y.domain()].join();
    if (full !== this.#backKey) {
      this.#backKey = full;
      for (const canvas of [this.#canvas, this.#back]) {
        canvas.width = Math.round(this.#width * ratio);
        canvas.height = Math.round(this.#height * ratio);
      }
      this.#canvas.style.height = `${this.#height}px`;
      this.#paint(this.#back, ratio, x, y, (painter) => {
        this.#grid(painter);
        this.#clip(painter, back);
        this.#clip(painter, this.#behind.paint);
        this.#axes(painter);
      });
    }
    const context = this.#canvas.getContext("2d");
    if (!context) return;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalAlpha = 1;
    context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    context.drawImage(this.#back, 0, 0);
    this.#paint(this.#canvas, ratio, x, y, (painter) => this.#clip(painter, front));
  }

  #scales() {
    const inner = this.#width - MARGIN.left - MARGIN.right;
    const tall = this.#height - MARGIN.top - MARGIN.bottom;
    let [xs, ys] = [this.x.domain, this.y.domain];
    if (this.equal) {
      const unit = Math.max((xs[1] - xs[0]) / inner, (ys[1] - ys[0]) / tall);
      xs = widen(xs, unit * inner);
      ys = widen(ys, unit * tall);
    }
    return {
      x: (this.x.log ? scaleLog() : scaleLinear())
        .domain(xs)
        .range([MARGIN.left, MARGIN.left + inner]),
      y: (this.y.log ? scaleLog() : scaleLinear())
        .domain(ys)
        .range([MARGIN.top + tall, MARGIN.top]),
    };
  }

  /**
   * @param {HTMLCanvasElement} canvas @param {number} ratio
   * @param {import("d3-scale").ScaleContinuousNumeric<number, number>} x
   * @param {import("d3-scale").ScaleContinuousNumeric<number, number>} y
   * @param {(painter: Painter) => void} paint
   */
  #paint(canvas, ratio, x, y, paint) {
    const context = canvas.getContext("2d");
    if (!context || !this.#theme) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (canvas === this.#back) context.clearRect(0, 0, this.#width, this.#height);
    paint(new Painter(context, this.#theme, x, y));
  }

  /** @param {Painter} painter @param {(painter: Painter) => void} paint */
  #clip(painter, paint) {
    const c = painter.context;
    const [left, right] = painter.x.range();
    const [bottom, top] = painter.y.range();
    c.save();
    c.beginPath();
    c.rect(left, top, right - left, bottom - top);
    c.clip();
    paint(painter);
    c.restore();
  }

  /** @param {Painter} painter */
  #ticks(painter) {
    const [left, right] = painter.x.range();
    const [bottom, top] = painter.y.range();
    return {
      xs: ticksOf(this.x, painter.x, Math.max(3, Math.round((right - left) / 70))),
      ys: ticksOf(this.y, painter.y, Math.max(3, Math.round((bottom - top) / 45))),
    };
  }

  /** @param {Painter} painter */
  #grid(painter) {
    const { xs, ys } = this.#ticks(painter);
    const style = { color: /** @type {Color} */ ("grey"), width: 0.6, alpha: 0.25 };
    for (const { value } of xs) painter.vertical(value, style);
    for (const { value } of ys) painter.horizontal(value, style);
  }

  /** @param {Painter} painter */
  #axes(painter) {
    const c = painter.context;
    const { theme } = painter;
    const [left, right] = painter.x.range();
    const [bottom, top] = painter.y.range();
    const { xs, ys } = this.#ticks(painter);
    c.globalAlpha = 1;
    c.setLineDash([]);
    c.strokeStyle = theme.muted;
    c.lineWidth = 1;
    c.beginPath();
    c.moveTo(left, top);
    c.lineTo(left, bottom);
    c.lineTo(right, bottom);
    for (const { value } of xs) {
      c.moveTo(painter.x(value), bottom);
      c.lineTo(painter.x(value), bottom + 4);
    }
    for (const { value } of ys) {
      c.moveTo(left, painter.y(value));
      c.lineTo(left - 4, painter.y(value));
    }
    c.stroke();
    c.fillStyle = theme.text;
    c.font = `12px ${theme.font}`;
    c.textAlign = "center";
    c.textBaseline = "top";
    for (const { value, text } of xs) {
      // What stands at the very end is moved in, not cut off.
      const most = this.#width - c.measureText(text).width / 2;
      c.fillText(text, Math.min(painter.x(value), most), bottom + 6);
    }
    c.textAlign = "right";
    c.textBaseline = "middle";
    for (const { value, text } of ys) c.fillText(text, left - 7, painter.y(value));
    c.font = `13px ${theme.font}`;
    c.textAlign = "right";
    c.textBaseline = "bottom";
    c.fillText(this.x.label, right, bottom + MARGIN.bottom - 1);
    c.textAlign = "left";
    c.textBaseline = "top";
    c.fillText(this.y.label, 4, 2);
  }
}

/**
 * @param {Axis} axis
 * @param {import("d3-scale").ScaleContinuousNumeric<number, number>} scale
 * @param {number} count
 */
function ticksOf(axis, scale, count) {
  const [low, high] = /** @type {Interval} */ (scale.domain());
  const given = axis.ticks?.filter((value) => value >= low && value <= high);
  if (axis.log && !given && high / low > 50) return decades(low, high, count);
  // Of a logarithmic axis D3 would write a tenth as "100m".
  const { unit = 1 } = axis;
  const named = unit === 1 ? scale : scale.copy().domain([low * unit, high * unit]);
  const say = axis.format ?? named.tickFormat(count, axis.log ? "~g" : undefined);
  return (given ?? named.ticks(count).map((value) => value / unit))
    .map((value) => ({ value, text: say(value * unit) }))
    .filter(({ text }) => text !== "");
}

/** Powers of ten, at most so many. @param {number} low @param {number} high @param {number} count */
function decades(low, high, count) {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const last = Math.floor(Math.log10(high) + 1e-9);
  const stride = Math.max(1, Math.ceil((last - first + 1) / count));
  const ticks = [];
  for (let k = Math.ceil(first / stride) * stride; k <= last; k += stride) {
    ticks.push({ value: 10 ** k, text: k === 0 ? "1" : k === 1 ? "10" : `10${superscript(k)}` });
  }
  return ticks;
}

/** @param {Interval} interval @param {number} width @returns {Interval} */
function widen([low, high], width) {
  const extra = (width - (high - low)) / 2;
  return [low - extra, high + extra];
}
