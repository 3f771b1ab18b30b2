/** Two directions at the edge at once: chapter "several_directions". */
import { REACH, describeEnd, describeMoment, drawPlane, drawSizes, excesses } from "../figures/sphere.js";
import * as sphere from "../lib/sphere.js";
import { choice, slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { liveFigure, numbers } from "../ui/live.js";
import { Plot } from "../ui/plot.js";

/** In units of eta, on which nothing depends besides them. */
const ETA = 1;
const STEPS = 900;
/** The two oscillations at the start, over that of the control. */
const SHARES = [0.8, 0.6];

/** How the excess depends on the position: as in the chapter, as two mirrors, and so that none lowers both. @type {[sphere.Symmetric, sphere.Symmetric][]} */
const COUPLINGS = [
  [[1.3, 0, 0.7], [0.5, 0.8, -0.5]],
  [[1, 0, 0], [0, 0, 1]],
  [[1, 0, -1], [0, 0, 0]],
];

/** @type {number[][]} once known, how many excesses are above zero around the center */
const around = [];
const directions = (/** @type {number} */ kind) =>
  (around[kind] ??= sphere.signs(COUPLINGS[kind], 720));

/** @param {Record<string, number>} given @returns {import("../figures/sphere.js").State} */
function compute({ kind, g1, g2, x }) {
  const couplings = COUPLINGS[kind];
  /** @type {sphere.Pair} */
  const position = [g1, g2];
  /** @type {sphere.Pair} */
  const displacement = [SHARES[0] * x, SHARES[1] * x];
  const run = sphere.sphereDynamics({ couplings, position, displacement, eta: ETA, steps: STEPS });
  const size = (/** @type {0 | 1} */ k) => run.displacements.map((X) => Math.abs(X[k]) / Math.SQRT2);
  return {
    key: JSON.stringify([kind, g1, g2, x]),
    couplings,
    run,
    radius: sphere.radius(position, displacement),
    above: directions(kind),
    columns: {
      g1: run.positions.map(([v]) => v),
      g2: run.positions.map(([, v]) => v),
      far: run.positions.map((G) => Math.hypot(...G)),
      one: size(0),
      other: size(1),
    },
    times: Array.from({ length: STEPS + 1 }, (_, t) => t),
  };
}

/** @param {DOMStringMap} given */
export function sphereFigure(given) {
  const first = numbers(given, { kind: 0, g1: 0.03, g2: 0.018, x: 0.002 });
  const controls = {
    kind: choice({
      key: "kind",
      label: "Excess",
      options: ["mixed", "two mirrors", "opposed"],
      value: first.kind,
    }),
    g1: slider({ key: "g1", label: "Start, G₁", min: -0.055, max: 0.055, value: first.g1, step: 0.002 }),
    g2: slider({ key: "g2", label: "Start, G₂", min: -0.055, max: 0.055, value: first.g2, step: 0.002 }),
    x: slider({ key: "x", label: "First oscillation", min: 0.0005, max: 0.01, value: first.x, scale: "log" }),
  };
  return liveFigure({
    controls,
    presets: {
      "Both above": first,
      "One above": { ...first, g1: 0.02, g2: -0.03 },
      "Two mirrors": { ...first, kind: 1 },
      "None lowers both": { ...first, kind: 2 },
    },
    compute,
    length: (state) => state.run.last,
    rate: () => 100,
    plots: (redraw) => ({
      plane: new Plot({
        title: "Where the minimum is: drag the start",
        x: { label: "G₁", domain: [-REACH, REACH] },
        y: { label: "G₂", domain: [-REACH, REACH] },
        aspect: (width) => (width > 560 ? 1.7 : 1.05),
        equal: true,
        redraw,
      }),
      sizes: new Plot({
        title: "What the position gives, the oscillations take",
        x: { label: "step t", domain: [0, STEPS] },
        y: { label: "size", domain: [0, 1] },
        aspect: (width) => (width > 560 ? 2.8 : 1.3),
        redraw,
      }),
    }),
    connect({ plane, sizes }, { changed, show }) {
      plane.onDrag((g1, g2) => {
        controls.g1.set(Number(g1.toFixed(3)));
        controls.g2.set(Number(g2.toFixed(3)));
        changed();
      });
      sizes.onDrag(show);
    },
    describe(state, { sizes }) {
      sizes.y.domain = [0, 1.35 * Math.max(state.radius, 0.01)];
      const [high, low] = excesses(state, 0);
      controls.kind.hint(`excesses at the start ${format(high, 2)} and ${format(low, 2)}`);
      controls.x.hint("of both directions, 8 : 6");
      return describeEnd(state);
    },
    draw(state, { plane, sizes }, t) {
      drawPlane(plane, state, t);
      drawSizes(sizes, state, t);
      return describeMoment(state, t);
    },
  });
}
