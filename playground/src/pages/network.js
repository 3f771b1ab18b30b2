/** The playground of a real network: trained in a worker, measured at every step. */
import { BATCHES, COLUMNS, EXAMPLES, LAGS, NETWORKS, TASKS, grid } from "../lib/training.js";
import { choice, panel, presetButtons, slider } from "../ui/controls.js";
import { format, h } from "../ui/dom.js";
import { facts } from "../ui/facts.js";
import { History, ceiling, thinned } from "../ui/history.js";
import { address, frames, layout, mount, status } from "../ui/page.js";
import { transport } from "../ui/player.js";
import { Plot } from "../ui/plot.js";
import source from "worker:../worker/network.js";

/** @typedef {import("../worker/network.js").Answer} Answer */
/** @typedef {import("../worker/network.js").Request} Request */
/** @typedef {import("../ui/plot.js").Painter} Painter */

/** The run ends here: its records are kept in memory. */
const LAST = 20000;
const SPEEDS = [10, 60, 240];
const VIEWS = [200, 600, 2000, Infinity];
const BASE = { net: 1, task: 0, eta: 0.5, scale: 0.5, batch: 0, seed: 1 };
const PRESETS = {
  "Edge of stability": BASE,
  "Below the threshold": { ...BASE, eta: 0.05 },
  "Period two": { ...BASE, task: 2, eta: 0.3, scale: 0.6 },
  "Near-equal directions": { ...BASE, net: 3, task: 2, eta: 0.3, scale: 0.6 },
  "Minibatches of 4": { ...BASE, batch: 3 },
  "No hidden layer": { ...BASE, net: 4, eta: 2.1 },
};
/** Changing one of these makes another run. */
const STARTING = ["net", "task", "scale", "seed"];
/** Two leading eigenvalues closer than this, relative to the first, share their directions. */
const NEAR = 0.1;
/** @type {import("../ui/plot.js").Entry} */
const NEAR_ENTRY = { text: "λ₁ ≈ λ₂: read the span", color: "purple", shape: "line" };

const degrees = (/** @type {number} */ cosine) => (Math.acos(Math.min(1, cosine)) * 180) / Math.PI;

/** Width over height: flat on a wide page, taller on a phone. */
const WIDE = (/** @type {number} */ width) => (width > 560 ? 3.1 : 1.45);

mount("network", () => {
  const rate = slider({
    key: "eta",
    label: "Learning rate η",
    min: 0.01,
    max: 3,
    value: BASE.eta,
    scale: "log",
    say: (eta) => `${format(eta)}, threshold ${format(2 / eta)}`,
  });
  const form = panel(
    [
      rate,
      choice({
        key: "batch",
        label: "Examples in a step",
        value: 0,
        options: BATCHES.map((b) =>
          b === EXAMPLES ? `All ${b}: full batch` : `${b}: minibatches`,
        ),
      }),
      choice({
        key: "net",
        label: "Network",
        value: BASE.net,
        options: NETWORKS.map((w) => w.join("–") + (w.length > 2 ? "" : ": a linear model")),
      }),
      choice({ key: "task", label: "Function to learn", options: TASKS.map(({ name }) => name) }),
      slider({
        key: "scale",
        label: "Size of the first weights",
        min: 0.2,
        max: 3,
        value: BASE.scale,
        scale: "log",
      }),
      slider({ key: "seed", label: "Seed", min: 1, max: 99, value: 1, step: 1 }),
      choice({
        key: "lag",
        label: "Compare v₁ with itself",
        value: 2,
        options: LAGS.map((k) => (k === 1 ? "1 step ago" : `${k} steps ago`)),
      }),
      choice({
        key: "angle",
        label: "Rotation shown as",
        options: ["overlap, |cos|", "angle, degrees"],
      }),
      choice({
        key: "speed",
        label: "Speed",
        value: 1,
        options: SPEEDS.map((s) => `${s} steps a second`),
      }),
      choice({
        key: "view",
        label: "Plots show",
        value: 1,
        options: VIEWS.map((v) => (v < Infinity ? `the last ${v} steps` : "all steps")),
      }),
    ],
    changed,
  );
  const presets = presetButtons("Try", PRESETS, (values) => {
    form.set(values);
    began = "";
    changed();
  });
  const drawing = frames(draw);
  const redraw = drawing.request;
  const x = () => ({ label: "step", domain: /** @type {[number, number]} */ ([0, 1]) });
  const spectrum = new Plot({
    title: "The three largest Hessian eigenvalues",
    x: x(),
    y: { label: "eigenvalue", domain: [0, 1] },
    aspect: WIDE,
    redraw,
  });
  const rotation = new Plot({
    title: "Rotation of the leading eigenvector v₁",
    x: x(),
    y: { label: "", domain: [0, 1] },
    aspect: WIDE,
    redraw,
  });
  const losses = new Plot({
    title: "Training loss",
    x: x(),
    y: { label: "loss", domain: [1e-3, 1], log: true, format: powerOfTen },
    aspect: WIDE,
    redraw,
  });
  const fit = new Plot({
    title: "What the network has learned",
    x: { label: "input x", domain: [-1.08, 1.08] },
    y: { label: "output", domain: [-1.4, 1.4] },
    redraw,
  });
  const line = status();
  const table = facts("The latest step in numbers");

  /** @type {Worker | undefined} */
  let worker;
  let runs = 0;
  let history = new History(COLUMNS);
  /** @type {Answer | undefined} */
  let latest;
  let busy = false;
  let broken = "";
  /** Steps to be taken: asked for by the button, and due while playing. */
  let asked = 0;
  let due = 0;
  /** When steps were taken, for their rate. @type {{at: number, step: number}[]} */
  let pace = [];
  let began = "";
  let told = 0;

  const run = transport({
    start: () => {
      if (ended()) restart();
      due = 0;
      pace = [];
    },
    advance: (seconds) => {
      const speed = SPEEDS[form.values().speed];
      // What a slow machine cannot keep up with is not made up for later.
      due = Math.min(due + seconds * speed, Math.max(1, 0.1 * speed));
      request();
      return !ended();
    },
    step: () => {
      if (ended()) return;
      due = 0;
      asked += 1;
      request();
    },
    reset: restart,
    changed: (playing) => {
      if (!playing) due = 0;
      redraw();
    },
  });
  const link = address({
    values: form.values,
    set: (values) => {
      form.set(values);
      apply();
    },
  });

  function ended() {
    return broken !== "" || latest?.diverged === true || history.length > LAST;
  }

  /** End the worker, in the midst of whatever it does, and begin the run anew in another. */
  function restart() {
    worker?.terminate();
    runs += 1;
    history = new History(COLUMNS);
    latest = undefined;
    broken = "";
    asked = due = 0;
    pace = [];
    const { net, task, seed, scale } = form.values();
    began = STARTING.map((key) => form.values()[key]).join();
    try {
      const at = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      worker = new Worker(at);
      URL.revokeObjectURL(at);
    } catch {
      fail();
      return;
    }
    worker.onmessage = receive;
    worker.onerror = fail;
    busy = true;
    worker.postMessage(message(0, { network: net, task, seed, scale }));
    redraw();
  }

  function fail() {
    broken = "This browser lets the page start no worker, which is what trains the network.";
    busy = false;
    redraw();
  }

  /** @param {number} steps @param {Request["start"]} [start] @returns {Request} */
  function message(steps, start) {
    const { eta, batch, lag } = form.values();
    return { start, steps, eta, batch: BATCHES[batch], lag: LAGS[lag] };
  }

  /** Ask for the steps that are due, unless an answer is awaited: then they wait too. */
  function request() {
    const wanted = Math.min(asked + Math.floor(due), LAST + 1 - history.length);
    if (busy || wanted < 1 || !worker || ended()) return;
    busy = true;
    worker.postMessage(message(wanted));
  }

  /** @param {MessageEvent<Answer>} event */
  function receive({ data }) {
    busy = false;
    const before = history.length;
    history.append(data.records);
    latest = data;
    let taken = history.length - Math.max(before, 1);
    const pressed = Math.min(asked, taken);
    asked -= pressed;
    taken -= pressed;
    due = Math.max(0, due - taken);
    pace.push({ at: performance.now(), step: history.length });
    while (pace[0].at < performance.now() - 2000) pace.shift();
    if (asked > 0) request();
    redraw();
  }

  /** Put in force what the controls say. */
  function apply() {
    const values = form.values();
    presets.mark(values);
    if (STARTING.map((key) => values[key]).join() !== began) restart();
    redraw();
  }

  function changed() {
    apply();
    link.write();
  }

  /** The steps that the plots show. */
  function shown() {
    const width = VIEWS[form.values().view];
    const last = Math.max(0, history.length - 1);
    if (width === Infinity) return { first: 0, last, end: Math.max(200, ceiling(1.02 * last)) };
    const first = Math.max(0, last - width);
    // A little room at the right, for the latest point.
    return { first, last, end: first + 1.02 * width };
  }

  function draw() {
    const values = form.values();
    const { first, last, end } = shown();
    const inView = latest?.episodes.filter((e) => e.end >= first) ?? [];
    // Words and numbers that change with every frame can be neither read nor read aloud.
    const now = performance.now();
    const speak = !run.playing() || now - told > 150;
    if (speak) told = now;
    const window = { first, last, end, inView, values, speak };
    for (const plot of [losses, spectrum, rotation]) {
      plot.x.domain = [first, end];
      // A label at the very end would be cut off.
      plot.x.format = (step) =>
        step > end - 0.03 * (end - first) ? "" : step.toLocaleString("en-US");
    }
    rate.hint(`unstable above 2/η = ${format(2 / values.eta)}`);
    drawSpectrum(window);
    drawRotation(window);
    drawLoss(window);
    drawFit(window);
    if (speak) tell(values);
  }

  /**
   * @typedef {object} Window
   * @property {number} first @property {number} last @property {number} end
   * @property {import("../lib/episodes.js").Episode[]} inView
   * @property {Record<string, number>} values
   * @property {boolean} speak whether to say in words what is drawn
   */

  /** The episodes in view, behind the curves. @param {Painter} p @param {Window} window */
  function shade(p, { inView }) {
    for (const { start, end } of inView) p.band([start, end], { color: "orange", alpha: 0.25 });
  }

  /**
   * @param {Painter} p @param {string} name @param {Window} window
   * @param {import("../ui/plot.js").Style} style
   * @param {(value: number) => number} [shape]
   */
  function trace(p, name, { first, last }, style, shape) {
    const [left, right] = p.x.range();
    const { xs, ys } = thinned(history.column(name), first, last, Math.floor(right - left));
    p.line(xs, shape ? ys.map(shape) : ys, style);
  }

  /** @param {Window} window */
  function drawSpectrum(window) {
    const { first, last, inView, values, speak } = window;
    const now = 2 / values.eta;
    let top = 1e-9;
    for (const v of history.column("lambda1").subarray(first, last + 1)) if (v > top) top = v;
    let low = 0;
    for (const v of history.column("lambda3").subarray(first, last + 1)) if (v < low) low = v;
    // A threshold far above what there is would flatten it; then the plot says where it is.
    const far = now > 4 * top;
    const limit = ceiling(1.1 * Math.max(top, far ? 0 : now));
    spectrum.y.domain = [low < 0 ? -ceiling(-low) : 0, limit];
    spectrum.legend([
      { text: "λ₁, the sharpness", color: "blue", shape: "line" },
      { text: "λ₂", color: "green", shape: "line" },
      { text: "λ₃", color: "purple", shape: "line" },
      { text: "2/η", color: "vermillion", shape: "dashed" },
      ...entry(inView),
    ]);
    spectrum.draw("", none, (p) => {
      shade(p, window);
      trace(p, "eta", window, { color: "vermillion", dash: [6, 4], width: 1.5 }, (eta) => 2 / eta);
      p.segments([[last, now, window.end, now]], { color: "vermillion", dash: [6, 4], width: 1.5 });
      trace(p, "lambda3", window, { color: "purple" });
      trace(p, "lambda2", window, { color: "green" });
      trace(p, "lambda1", window, { color: "blue", width: 2 });
      if (history.length)
        p.point(last, history.last("lambda1"), { color: "blue", size: 4, ring: true });
      if (far) {
        p.text(`2/η = ${format(now)} is far above ↑`, window.end, limit, {
          align: "right",
          dx: -6,
          dy: 12,
          color: "vermillion",
        });
      }
    });
    if (!speak) return;
    spectrum.describe(
      history.length
        ? `Eigenvalues over the steps. Now ${leading()
            .map((v) => format(v))
            .join(", ")}; ` +
            `threshold ${format(now)}, crossed ${crossings(first, last)} times in view.`
        : "Eigenvalues over the steps; none yet.",
    );
  }

  /** The latest eigenvalues; a linear model has two. */
  function leading() {
    return [1, 2, 3].map((k) => history.last(`lambda${k}`)).filter((v) => !Number.isNaN(v));
  }

  /** How often the sharpness rises through 2/η. @param {number} first @param {number} last */
  function crossings(first, last) {
    const [sharpness, eta] = [history.column("lambda1"), history.column("eta")];
    const above = (/** @type {number} */ t) => sharpness[t] > 2 / eta[t];
    let count = 0;
    for (let t = first + 1; t <= last; t++) if (above(t) && !above(t - 1)) count += 1;
    return count;
  }

  /** @param {Window} window */
  function drawRotation(window) {
    const { first, last, inView, values, speak } = window;
    const lag = LAGS[values.lag];
    const angle = values.angle === 1;
    const shape = angle ? degrees : undefined;
    rotation.y.label = angle ? "angle, degrees" : "overlap";
    let least = 1;
    for (const name of ["lagOverlap", "startOverlap", "spanOverlap"]) {
      for (const v of history.column(name).subarray(first, last + 1)) if (v < least) least = v;
    }
    // The scale has few sizes, so that it does not change all the time.
    const [most, bottom] = [
      [15, 0.9],
      [45, 0.5],
      [90, 0],
    ].find(([, v]) => least >= v) ?? [90, 0];
    rotation.y.domain = angle ? [0, 1.03 * most] : [bottom, 1 + 0.03 * (1 - bottom)];
    rotation.y.ticks = angle
      ? [0, 5, 10, 15, 30, 45, 60, 90].filter((v) => most < 30 || v % 15 === 0)
      : undefined;
    const [one, two] = [history.column("lambda1"), history.column("lambda2")];
    /** @type {number[]} */
    const near = [];
    for (let i = first; i <= last; i++) if (one[i] - two[i] < NEAR * one[i]) near.push(i);
    const ago = lag === 1 ? "1 step ago" : `${lag} steps ago`;
    rotation.legend([
      { text: `v₁ with v₁ ${ago}`, color: "blue", shape: "line" },
      { text: "v₁ with v₁ at the last start", color: "vermillion", shape: "line" },
      { text: `span of v₁, v₂, v₃, ${ago}`, color: "grey", shape: "dotted" },
      ...(near.length ? [NEAR_ENTRY] : []),
      ...entry(inView),
    ]);
    rotation.draw(String(angle), none, (p) => {
      shade(p, window);
      trace(p, "spanOverlap", window, { color: "grey", dash: [2, 3] }, shape);
      trace(p, "startOverlap", window, { color: "vermillion" }, shape);
      trace(p, "lagOverlap", window, { color: "blue", width: 1.8 }, shape);
      p.segments(
        near.map((i) => [i, angle ? 0 : bottom, i + 1, angle ? 0 : bottom]),
        { color: "purple", width: 7 },
      );
    });
    if (!speak) return;
    const said = (/** @type {string} */ name) => format(history.length ? history.last(name) : NaN);
    rotation.describe(
      `Overlaps over the steps. Now ${said("lagOverlap")} with ${ago}, ${said("startOverlap")} with the ` +
        `start of the last instability, ${said("spanOverlap")} for the span of three.`,
    );
  }

  /** @param {Window} window */
  function drawLoss(window) {
    const { first, last, inView, speak } = window;
    let [low, high] = [Infinity, 0];
    for (const v of history.column("loss").subarray(first, last + 1)) {
      if (v > 0 && v < low) low = v;
      if (v > high && v < Infinity) high = v;
    }
    if (high > 0) {
      const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high) + 1e-9)];
      const every = Math.ceil((to - from) / 5);
      losses.y.domain = [10 ** from, 10 ** to];
      losses.y.ticks = [];
      for (let k = from; k <= to; k += every) losses.y.ticks.push(10 ** k);
    }
    losses.legend([
      { text: "loss on all 32 examples", color: "blue", shape: "line" },
      ...entry(inView),
    ]);
    losses.draw("", none, (p) => {
      shade(p, window);
      trace(p, "loss", window, { color: "blue", width: 1.8 });
    });
    if (!speak) return;
    losses.describe(
      history.length
        ? `Loss over the steps, now ${format(history.last("loss"))}.`
        : "Loss over the steps.",
    );
  }

  /** @param {Window} window */
  function drawFit({ values: { task }, speak }) {
    const inputs = grid(EXAMPLES);
    fit.legend([
      { text: "data", color: "vermillion", shape: "dot" },
      { text: "network", color: "blue", shape: "line" },
    ]);
    fit.draw("", none, (p) => {
      for (const input of inputs)
        p.point(input, TASKS[task].f(input), { color: "vermillion", size: 3 });
      if (latest) p.line(grid(latest.fit.length), latest.fit, { color: "blue", width: 2 });
    });
    if (!speak) return;
    fit.describe(
      `The ${EXAMPLES} examples of ${TASKS[task].name}, and the function that the network computes` +
        (history.length
          ? `, off by ${format(Math.sqrt(2 * history.last("loss")))} in root mean square.`
          : "."),
    );
  }

  /** The state in words and numbers. @param {Record<string, number>} values */
  function tell(values) {
    const { eta, batch } = values;
    const t = history.length - 1;
    if (t < 0) {
      line.say(broken || "The worker is starting.");
      return;
    }
    const sharpness = history.last("lambda1");
    const episodes = latest?.episodes ?? [];
    const current = episodes[episodes.length - 1];
    const full = BATCHES[batch] === EXAMPLES;
    const turn = degrees(history.last("startOverlap"));
    const span = pace.length > 1 ? pace[pace.length - 1].at - pace[0].at : 0;
    table.set([
      ["Step", String(t)],
      ["Loss", format(history.last("loss"))],
      ["Sharpness λ₁", `${format(sharpness)} = ${format((sharpness * eta) / 2)} × 2/η`],
      ["Turn of v₁ since the last start", Number.isNaN(turn) ? "–" : `${turn.toFixed(1)}°`],
      ["Instabilities so far", String(episodes.length)],
      ["Exact Hessian products", String(history.last("products"))],
      ["Largest relative residual", format(history.last("residual"))],
      [
        "Steps a second",
        run.playing() && span > 0
          ? String(Math.round(((pace[pace.length - 1].step - pace[0].step) / span) * 1000))
          : "–",
      ],
    ]);
    line.say(
      broken
        ? broken
        : latest?.diverged
          ? `Diverged: at step ${t} the loss is beyond 10⁹ or no number. Lower η and press Reset.`
          : t >= LAST
            ? `The run ends here, at ${LAST} steps. Reset begins it again.`
            : t === 0
              ? `Before the first step: sharpness ${format(sharpness)}, threshold 2/η = ${format(2 / eta)}. Press Play.`
              : !full
                ? `Minibatches of ${BATCHES[batch]}: noise, too, raises the loss. Sharpness ` +
                  `${sharpness > 2 / eta ? "above" : "below"} 2/η.`
                : current?.open
                  ? `Instability ${episodes.length}, since step ${current.start}: the loss is above its minimum, and v₁ turns.`
                  : sharpness > 2 / eta
                    ? "Sharpness above 2/η: each step multiplies the displacement along v₁, still too small to see in the loss."
                    : episodes.length
                      ? `Stable again: the sharpness is below 2/η. Instabilities so far: ${episodes.length}.`
                      : "Stable: the sharpness is below 2/η.",
    );
  }

  apply();
  return {
    elements: [
      layout(
        [presets.element, form.element],
        [
          h("div", { class: "pg-bar" }, run.element, link.element),
          line.element,
          h(
            "div",
            { class: "pg-plots" },
            wide(spectrum),
            wide(rotation),
            wide(losses),
            fit.element,
            table.element,
          ),
        ],
      ),
    ],
    values: form.values,
    history: () => history,
    latest: () => latest,
    runs: () => runs,
    busy: () => busy,
    playing: run.playing,
    times: drawing.times,
  };
});

function none() {}

/** @param {number} value */
function powerOfTen(value) {
  const digits = [...String(Math.round(Math.log10(value)))];
  return `10${digits.map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("")}`;
}

/** @param {import("../lib/episodes.js").Episode[]} inView @returns {import("../ui/plot.js").Entry[]} */
function entry(inView) {
  return inView.length ? [{ text: "instability", color: "orange", shape: "area" }] : [];
}

/** @param {Plot} plot */
function wide(plot) {
  plot.element.classList.add("pg-wide");
  return plot.element;
}
