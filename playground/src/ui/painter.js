/** What draws on a plot. */

/** @typedef {[number, number]} Interval */
/** @typedef {import("./theme.js").Theme} Theme */
/** @typedef {keyof Omit<Theme, "font">} Color */

/**
 * @typedef {object} Style
 * @property {Color} [color]
 * @property {number} [width]
 * @property {readonly number[]} [dash]
 * @property {number} [alpha]
 */

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

  /**
   * The line that a value must not pass, with its name at the right end.
   *
   * @param {number} level @param {string} name @param {number} [dy] pixels from the line to the name
   */
  threshold(level, name, dy = -9) {
    this.horizontal(level, { color: "vermillion", width: 1.6, dash: [7, 5] });
    this.text(name, this.x.domain()[1], level, { align: "right", dx: -4, dy });
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

  /** A rectangle between two corners. @param {Interval} xs @param {Interval} ys @param {Style} style */
  rectangle([x0, x1], [y0, y1], style) {
    const c = this.context;
    const [left, top] = [this.x(x0), this.y(y1)];
    this.#set(style);
    c.fillRect(left, top, this.x(x1) - left, this.y(y0) - top);
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
