/** Save what a page shows: its numbers as JSON, its pictures as one PNG. */
import { button } from "./controls.js";
import { h } from "./dom.js";
import { readTheme } from "./theme.js";

/** @typedef {import("./plot.js").Plot} Plot */

const GAP = 16;
const TITLE = 22;

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

/** All plots below each other, with their titles. @param {Plot[]} plots */
export function picture(plots) {
  const shown = plots.filter(({ canvas }) => canvas.width > 0);
  const ratio = window.devicePixelRatio || 1;
  const result = document.createElement("canvas");
  const extra = (TITLE + GAP) * ratio;
  result.width = Math.max(...shown.map(({ canvas }) => canvas.width));
  result.height = shown.reduce((sum, { canvas }) => sum + canvas.height + extra, GAP * ratio);
  const context = result.getContext("2d");
  if (!context || shown.length === 0) return result;
  const theme = readTheme(shown[0].element);
  context.fillStyle = theme.background;
  context.fillRect(0, 0, result.width, result.height);
  let top = GAP * ratio;
  for (const { canvas, title } of shown) {
    context.fillStyle = theme.text;
    context.font = `600 ${14 * ratio}px ${theme.font}`;
    context.textBaseline = "top";
    context.fillText(title, 4 * ratio, top);
    context.drawImage(canvas, 0, top + TITLE * ratio);
    top += canvas.height + extra;
  }
  return result;
}
