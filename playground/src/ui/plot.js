/**
 * Plots on a canvas, sharp on any screen, in the book's colors. Scales and ticks are d3-scale's.
 *
 * A plot has two layers. The back (axes, contours, curves that stay) is drawn once for each key
 * and kept; the front is drawn in every frame.
 */
import { scaleLinear, scaleLog } from "d3-scale";
import { h, superscript } from "./dom.js";
import { onThemeChange, readTheme } from "./theme.js";

/** @typedef {[number, number]} Interval */
/** @typedef {import("./theme.js").Theme} Theme */
/** @typedef {keyof Omit<Theme, "font">} Color */

/**
 * @typedef {object} Axis
 * @property {string} label
 * @property {Interval} domain
 * @property {boolean} [log]
 * @property {number[]} [ticks]
 * @property {(value: number) => string} [format]
 */

/**
 * @typedef {object} Style
 * @property {Color} [color]
 * @property {number} [width]
 * @property {readonly number[]} [dash]
 * @property {number} [alpha]
 */

/**
 * @typedef {object} Entry one line of a legend
 * @property {string} text
 * @property {Color} color
 * @property {"line" | "dashed" | "dotted" | "dot" | "up" | "down" | "area"} shape
 */

const MARGIN = { left: 48, right: 12, top: 24, bottom: 40 };

/** What draws on a plot, in the units of its axes. */
export class Painter {
  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Theme} theme
   * @param {import("d3-scale").ScaleContinuousNumeric<number, number>} x
   * @param {import("d3-scale").ScaleContinuousNumeric<number, number>} y
   */
  constructor(context, theme, x, y) {
    this.context = context;
    this.theme = theme;
    this.x = x;
    this.y = y;
  }

  /** @param {Style} style */
  #set({ color = "blue", width = 1.6, dash = [], alpha = 1 }) {
    const c = this.context;
    c.strokeStyle = c.fillStyle = this.theme[color];
    c.lineWidth = width;
    c.setLineDash([...dash]);
    c.globalAlpha = alpha;
    c.lineJoin = c.lineCap = "round";
  }

  /**
   * A line through points; one that is not finite interrupts it.
   *
   * @param {ArrayLike<number>} xs @param {ArrayLike<number>} ys @param {Style} style
   * @param {number} [first] @param {number} [last] the last one drawn
   */
  line(xs, ys, style, first = 0, last = ys.length - 1) {
    const c = this.context;
    this.#set(style);
    c.beginPath();
    let down = false;
    for (let i = first; i <= last; i++) {
      const px = this.#near(this.x(xs[i]));
      const py = this.#near(this.y(ys[i]));
      if (Number.isFinite(px) && Number.isFinite(py)) {
        if (down) c.lineTo(px, py);
        else c.moveTo(px, py);
        down = true;
      } else down = false;
    }
    c.stroke();
  }

  /** A pixel so far out that it cannot be seen, where canvases lose precision. @param {number} p */
  #near(p) {
    return Math.max(-1e5, Math.min(1e5, p));
  }

  /** @param {(x: number) => number} f @param {Style} style @param {Interval} [over] */
  curve(f, style, over) {
    const [low, high] = over ?? /** @type {Interval} */ (this.x.domain());
    const n = 240;
    const xs = Array.from({ length: n + 1 }, (_, i) => low + ((high - low) * i) / n);
    this.line(xs, xs.map(f), style);
  }

  /** @param {number} level @param {Style} style */
  horizontal(level, style) {
    this.line(this.x.domain(), [level, level], style);
  }

  /** @param {number} level @param {Style} style */
  vertical(level, style) {
    this.line([level, level], this.y.domain(), style);
  }

  /**
   * Straight pieces (x0, y0, x1, y1), in one color.
   *
   * @param {number[][]} pieces @param {Style} style
   */
  segments(pieces, style) {
    const c = this.context;
    this.#set(style);
    c.beginPath();
    for (const [x0, y0, x1, y1] of pieces) {
      c.moveTo(this.#near(this.x(x0)), this.#near(this.y(y0)));
      c.lineTo(this.#near(this.x(x1)), this.#near(this.y(y1)));
    }
    c.stroke();
  }

  /**
   * @param {number} x @param {number} y
   * @param {Style & {shape?: "dot" | "up" | "down" | "square", size?: number, ring?: boolean}} style
   */
  point(x, y, style) {
    const c = this.context;
    const { shape = "dot", size = 3, ring = false } = style;
    const px = this.x(x);
    const py = this.y(y);
    if (!(Number.isFinite(px) && Number.isFinite(py))) return;
    this.#set(style);
    c.beginPath();
    if (shape === "dot") c.arc(px, py, size, 0, 2 * Math.PI);
    else if (shape === "square") c.rect(px - size, py - size, 2 * size, 2 * size);
    else {
      const s = shape === "up" ? -size : size;
      c.moveTo(px, py + s * 1.1);
      c.lineTo(px + size, py - s * 0.8);
      c.lineTo(px - size, py - s * 0.8);
      c.closePath();
    }
    c.fill();
    if (ring) {
      c.strokeStyle = this.theme.background;
      c.lineWidth = 2;
      c.stroke();
    }
  }

  /**
   * Many marks of one kind, in one stroke.
   *
   * @param {ArrayLike<number>} xs @param {ArrayLike<number>} ys
   * @param {Style & {shape?: "dot" | "up" | "down", size?: number}} style
   * @param {number} first @param {number} last
   * @param {(i: number) => boolean} wanted which of them to draw
   */
  marks(xs, ys, style, first, last, wanted = () => true) {
    const c = this.context;
    const { shape = "dot", size = 3 } = style;
    this.#set(style);
    c.beginPath();
    for (let i = first; i <= last; i++) {
      if (!wanted(i)) continue;
      const px = this.x(xs[i]);
      const py = this.y(ys[i]);
      if (!(Math.abs(px) < 1e5 && Math.abs(py) < 1e5)) continue;
      if (shape === "dot") {
        c.moveTo(px + size, py);
        c.arc(px, py, size, 0, 2 * Math.PI);
      } else {
        const s = shape === "up" ? -size : size;
        c.moveTo(px, py + s * 1.1);
        c.lineTo(px + size, py - s * 0.8);
        c.lineTo(px - size, py - s * 0.8);
        c.closePath();
      }
    }
    c.fill();
  }

  /** Points of one pixel or two, many of them. @param {ArrayLike<number>} xs @param {ArrayLike<number>} ys @param {Style & {size?: number}} style */
  dust(xs, ys, style) {
    const c = this.context;
    const size = style.size ?? 1;
    this.#set(style);
    for (let i = 0; i < ys.length; i++) {
      c.fillRect(this.x(xs[i]) - size / 2, this.y(ys[i]) - size / 2, size, size);
    }
  }

  /** The part of the plot between two values of x. @param {Interval} over @param {Style} style */
  band([low, high], style) {
    const c = this.context;
    const [bottom, top] = this.y.range();
    this.#set(style);
    c.fillRect(this.x(low), top, this.x(high) - this.x(low), bottom - top);
  }

  /**
   * @param {string} text @param {number} x @param {number} y
   * @param {{color?: Color, align?: CanvasTextAlign, dx?: number, dy?: number, size?: number}} [style]
   */
  text(text, x, y, { color = "text", align = "left", dx = 0, dy = 0, size = 12 } = {}) {
    const c = this.context;
    c.globalAlpha = 1;
    c.font = `${size}px ${this.theme.font}`;
    c.textAlign = align;
    c.textBaseline = "middle";
    c.lineWidth = 3;
    c.setLineDash([]);
    c.lineJoin = "round";
    c.strokeStyle = this.theme.background;
    c.strokeText(text, this.x(x) + dx, this.y(y) + dy);
    c.fillStyle = this.theme[color];
    c.fillText(text, this.x(x) + dx, this.y(y) + dy);
  }
}

export class Plot {
  #canvas = h("canvas", { role: "img" });
  #box = h("div", { class: "pg-canvas" });
  #back = document.createElement("canvas");
  #backKey = "";
  #legend = h("span", { class: "pg-legend" });
  #legendKey = "";
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

  /** What the plot shows now, in words. @param {string} text */
  describe(text) {
    if (this.#canvas.getAttribute("aria-label") !== text) {
      this.#canvas.setAttribute("aria-label", text);
    }
  }

  /** @param {Entry[]} entries */
  legend(entries) {
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
    for (const { value, text } of xs) c.fillText(text, painter.x(value), bottom + 6);
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
  const say = axis.format ?? scale.tickFormat(count);
  return (given ?? scale.ticks(count))
    .map((value) => ({ value, text: say(value) }))
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
