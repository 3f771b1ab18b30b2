/** The phase diagram of where runs end, over learning rate and starting sharpness. */
import { format } from "../ui/dom.js";

/** @typedef {import("../ui/plot.js").Plot} Plot */

/**
 * @typedef {object} Diagram
 * @property {Float64Array} rates @property {Float64Array} sharpness the grid
 * @property {Float64Array} ends of each start, row by row: Infinity diverged, NaN did not settle
 * @property {number} floor the sharpness of the flattest minimum
 */

/** A minimum so little sharper than the flattest counts as one next to it. */
const NEXT = 1.05;
/** What ends at most so much flatter than it began has kept its sharpness. */
const KEPT = 0.98;

/** What became of a start. @param {number} start its sharpness @param {number} end @param {number} floor */
export function kind(start, end, floor) {
  if (end === Infinity) return "diverges";
  if (Number.isNaN(end)) return "does not settle";
  if (end > KEPT * start) return "keeps its sharpness";
  return end < NEXT * floor ? "ends next to the flattest" : "ends flatter";
}

/** How a kind is drawn. @param {number} start @param {number} end @param {number} floor @returns {import("../ui/plot.js").Style} */
function shade(start, end, floor) {
  const what = kind(start, end, floor);
  if (what === "diverges") return { color: "vermillion", alpha: 0.3 };
  if (what === "does not settle") return { color: "grey", alpha: 0.6 };
  if (what === "keeps its sharpness") return { color: "grey", alpha: 0.15 };
  if (what === "ends next to the flattest") return { color: "green", alpha: 0.9 };
  // In few steps: the stronger, the flatter the end.
  const depth = Math.log(start / end) / Math.log(start / floor);
  return { color: "blue", alpha: 0.25 + 0.6 * (Math.round(6 * depth) / 6) };
}

/**
 * @param {Plot} plot
 * @param {Diagram} diagram
 * @param {number} eta @param {number} start the point that is chosen
 * @param {number} end of it
 */
export function drawPhases(plot, { rates, sharpness, ends, floor }, eta, start, end) {
  plot.legend([
    { text: "keeps its sharpness", color: "border", shape: "area" },
    { text: "ends flatter (stronger: more)", color: "blue", shape: "area" },
    { text: "next to the flattest", color: "green", shape: "dot" },
    { text: "does not settle", color: "grey", shape: "area" },
    { text: "diverges", color: "vermillion", shape: "area" },
  ]);
  plot.describe(
    `A map of runs over learning rate and starting sharpness. The run at η = ${format(eta)} from ` +
      `sharpness ${format(start)} ${kind(start, end, floor)}. Drag over it, or use the sliders.`,
  );
  plot.draw(
    "",
    (p) => {
      const [across, up] = [rates.length, sharpness.length];
      const half = Math.sqrt(rates[1] / rates[0]);
      const tall = Math.sqrt(sharpness[1] / sharpness[0]);
      for (let i = 0; i < up; i++) {
        for (let j = 0; j < across; j++) {
          const style = shade(sharpness[i], ends[i * across + j], floor);
          p.rectangle(
            [rates[j] / half, rates[j] * half],
            [sharpness[i] / tall, sharpness[i] * tall],
            style,
          );
        }
      }
      const low = rates[0];
      for (const [factor, text] of /** @type {const} */ ([
        [2, "2/η"],
        [4, "4/η"],
      ])) {
        p.line(rates, rates.map((rate) => factor / rate), {
          color: "text",
          width: 1.8,
          dash: factor === 2 ? [7, 5] : [],
        });
        const high = p.y.domain()[1];
        p.text(text, Math.max(low, factor / high), Math.min(high, factor / low), { dx: 8, dy: 12 });
      }
    },
    (p) => {
      p.point(eta, start, { color: "text", size: 7, ring: true });
      p.point(eta, start, { color: "orange", size: 4 });
    },
  );
}
