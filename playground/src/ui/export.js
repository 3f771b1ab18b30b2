/** Save what a page shows: its numbers as JSON, its pictures as one PNG. */
import { scaleLinear } from "d3-scale";
import { button } from "./controls.js";
import { h } from "./dom.js";
import { Painter } from "./painter.js";
import { readTheme } from "./theme.js";

/** @typedef {import("./plot.js").Plot} Plot */
/** @typedef {import("./plot.js").Entry} Entry */

const GAP = 16;
const TITLE = 22;
/** Of the legend. */
const ROW = 18;

/** Numbers as JSON has them: typed arrays as lists, and null for what is no finite number. @param {unknown} data */
export function toJson(data) {
  return JSON.stringify(data, (_, value) => {
    if (ArrayBuffer.isView(value)) return Array.from(/** @type {Float64Array} */ (value));
    return value;
  });
}

/**
 * Two buttons that save under a name.
 *
 * @param {string} name of the files, without what follows the dot
 * @param {() => unknown} data
 * @param {() => Plot[]} plots
 */
export function exportButtons(name, data, plots) {
  return h(
    "div",
    { class: "pg-actions" },
    button("Save as JSON", () => {
      save(new Blob([toJson(data())], { type: "application/json" }), `${name}.json`);
    }),
    button("Save as PNG", () => {
      picture(plots()).toBlob((blob) => blob && save(blob, `${name}.png`), "image/png");
    }),
  );
}

/** @param {Blob} blob @param {string} name */
function save(blob, name) {
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: name }).click();
  // The browser reads it before it does anything else that a timer could come after.
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** All plots below each other, with their titles and legends. @param {Plot[]} plots */
export function picture(plots) {
  const shown = plots.filter(({ canvas }) => canvas.width > 0);
  const ratio = window.devicePixelRatio || 1;
  const result = document.createElement("canvas");
  const context = result.getContext("2d");
  if (!context || shown.length === 0) return result;
  const theme = readTheme(shown[0].element);
  const small = `${12 * ratio}px ${theme.font}`;
  context.font = small;
  const legends = shown.map(({ entries, canvas }) => layOut(context, entries, canvas.width, ratio));
  const heads = legends.map(({ rows }) => (TITLE + ROW * rows) * ratio);
  result.width = Math.max(...shown.map(({ canvas }) => canvas.width));
  result.height = shown.reduce(
    (sum, { canvas }, i) => sum + heads[i] + canvas.height + GAP * ratio,
    GAP * ratio,
  );
  context.fillStyle = theme.background;
  context.fillRect(0, 0, result.width, result.height);
  const painter = new Painter(context, theme, scaleLinear(), scaleLinear());
  let top = GAP * ratio;
  shown.forEach(({ canvas, title }, i) => {
    context.fillStyle = theme.text;
    context.font = `600 ${14 * ratio}px ${theme.font}`;
    context.textAlign = "left";
    context.textBaseline = "top";
    context.fillText(title, 4 * ratio, top);
    context.font = small;
    for (const { entry, x, row } of legends[i].places) {
      drawEntry(painter, entry, x, top + (TITLE + ROW * (row + 0.4)) * ratio, ratio);
    }
    top += heads[i];
    context.drawImage(canvas, 0, top);
    top += canvas.height + GAP * ratio;
  });
  return result;
}

/**
 * Where the entries of a legend stand, and how many rows they fill.
 *
 * @param {CanvasRenderingContext2D} context @param {Entry[]} entries
 * @param {number} width @param {number} ratio
 */
function layOut(context, entries, width, ratio) {
  let x = 4 * ratio;
  let row = 0;
  const places = entries.map((entry) => {
    const length = swatch(entry, ratio) + context.measureText(entry.text).width;
    if (x > 4 * ratio && x + length > width) {
      x = 4 * ratio;
      row += 1;
    }
    const place = { entry, x, row };
    x += length + 14 * ratio;
    return place;
  });
  return { places, rows: places.length ? row + 1 : 0 };
}

/** The room for what stands before the text. @param {Entry} entry @param {number} ratio */
function swatch({ shape }, ratio) {
  return shape === "words" ? 0 : 26 * ratio;
}

/** @param {Painter} painter @param {Entry} entry @param {number} x @param {number} y @param {number} ratio */
function drawEntry(painter, entry, x, y, ratio) {
  const { text, color, shape } = entry;
  const width = 3 * ratio;
  const over = /** @type {const} */ ([x, x + 20 * ratio]);
  if (shape === "dot" || shape === "up" || shape === "down") {
    painter.point(x + 10 * ratio, y, { color, shape, size: 5 * ratio });
  } else if (shape === "area") {
    painter.line(over, [y, y], { color, width: 3 * width, alpha: 0.3 });
  } else if (shape !== "words") {
    const dash = { line: [], dashed: [2 * width, 2 * width], dotted: [0, 2 * width] }[shape];
    painter.line(over, [y, y], { color, width, dash });
  }
  const { context, theme } = painter;
  context.globalAlpha = 1;
  context.fillStyle = theme.text;
  context.textBaseline = "middle";
  context.fillText(text, x + swatch(entry, ratio), y);
}
