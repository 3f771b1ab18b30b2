/** The arms of an intervention: what gradient descent does with a part of it taken away. */
import { format } from "../ui/dom.js";
import { drawContours, drawMinima } from "./scalar.js";

/** @typedef {import("../ui/plot.js").Plot} Plot */
/** @typedef {import("../lib/interventions.js").Arm} Arm */

/**
 * @typedef {object} State
 * @property {string} key it changes with the state
 * @property {number} eta @property {number} y
 * @property {number} steps
 * @property {Record<string, Arm>} arms
 * @property {string[]} on the names of those that are shown
 * @property {Float64Array} times 0, 1, 2, ...
 */

/** Names and colors as in the figure of the chapter. */
export const ARMS = /** @type {const} */ ({
  control: { color: "blue", text: "gradient descent" },
  within: { color: "vermillion", text: "without the rotation's force" },
  across: { color: "skyblue", text: "with that part alone" },
  drift: { color: "green", text: "the force, no oscillation" },
  reversed: { color: "purple", text: "the force reversed" },
});

/** @typedef {keyof typeof ARMS} Name */
const names = (/** @type {State} */ { on }) => /** @type {Name[]} */ (on);

/** @param {State} state */
const entries = (state) =>
  names(state).map((name) => ({ ...ARMS[name], shape: /** @type {const} */ ("line") }));

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawSharpness(plot, state, t) {
  const { key, eta, arms, times } = state;
  plot.legend(entries(state));
  plot.describe(
    `Sharpness at the center, in units of 2/η, against the step. At step ${t}: ` +
      `${values(state, t)}.`,
  );
  plot.draw(
    key,
    (p) => {
      p.horizontal(1, { color: "vermillion", width: 1.6, dash: [7, 5] });
      p.text("2/η", p.x.domain()[1], 1, { align: "right", dx: -4, dy: -9 });
    },
    (p) => {
      for (const name of names(state)) {
        const scaled = arms[name].sharpness.map((v) => (v * eta) / 2);
        p.line(times, scaled, { color: ARMS[name].color, width: 2.2 }, 0, t);
        p.point(t, scaled[t], { color: ARMS[name].color, size: 5, ring: true });
      }
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawPlane(plot, state, t) {
  const { key, eta, y, arms } = state;
  plot.legend([
    { text: "stable minima", color: "green", shape: "line" },
    { text: "minima sharper than 2/η", color: "orange", shape: "dashed" },
  ]);
  plot.describe(
    `The plane of a and b, with the parameters as points and the centers as lines. At step ${t} ` +
      names(state)
        .map((n) => `${ARMS[n].text} is around (${format(arms[n].a[t])}, ${format(arms[n].b[t])})`)
        .join(", ") +
      ".",
  );
  plot.draw(
    key,
    (p) => {
      drawContours(p, y);
      drawMinima(p, eta, y);
    },
    (p) => {
      for (const name of names(state)) {
        const { color } = ARMS[name];
        const { a, b, seenA, seenB } = arms[name];
        p.line(seenA, seenB, { color, width: 0.8, alpha: 0.5 }, 0, t);
        p.marks(seenA, seenB, { color, size: 2.4, alpha: 0.8 }, 0, t);
        p.line(a, b, { color, width: 2.4 }, 0, t);
        p.point(a[t], b[t], { color, size: 5.5, ring: true });
      }
    },
  );
}

/** @param {State} state @param {number} t */
function values(state, t) {
  const said = names(state).map(
    (n) => `${ARMS[n].text} ${format((state.arms[n].sharpness[t] * state.eta) / 2)}`,
  );
  return said.join(", ") || "no arm is switched on";
}

/** @param {State} state @param {number} t */
export function describeMoment(state, t) {
  return `Step ${t} of ${state.steps}. Sharpness × η/2: ${values(state, t)}.`;
}

/** Which arms came down, in words. @param {State} state */
export function describeEnd(state) {
  const { eta, steps, arms } = state;
  if (state.on.length === 0) return "Switch on an arm.";
  const [down, up] = [/** @type {string[]} */ ([]), /** @type {string[]} */ ([])];
  for (const name of names(state)) {
    const end = (arms[name].sharpness[steps] * eta) / 2;
    (end < 1 ? down : up).push(`${ARMS[name].text} (${format(end)})`);
  }
  const says = (/** @type {string[]} */ list, /** @type {string} */ where) =>
    list.length ? ` ${where}: ${list.join(", ")}.` : "";
  return (says(down, "Below 2/η at the end") + says(up, "Above it")).trim();
}
