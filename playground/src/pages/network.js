/** The playground of a real network: trained in a worker, measured at every step. */
import {
  describeArrival,
  describeRun,
  drawFit,
  drawLoss,
  drawRotation,
  drawSpectrum,
  factsOf,
  times,
} from "../figures/network.js";
import { BATCHES, COLUMNS, EXAMPLES, LAGS, NETWORKS, TASKS } from "../lib/training.js";
import { readAddress } from "../ui/address.js";
import { choice, panel, presetButtons, slider } from "../ui/controls.js";
import { format, h, superscript } from "../ui/dom.js";
import { exportButtons } from "../ui/export.js";
import { facts } from "../ui/facts.js";
import { ceiling } from "../ui/history.js";
import { keeper } from "../ui/kept.js";
import { address, bar, frames, layout, mount, status } from "../ui/page.js";
import { Plot } from "../ui/plot.js";
import { trainer } from "../ui/trainer.js";

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
/** A page that was opened at no state goes by itself to where the sharpness passes 2/η, or so far. */
const LEAD = 150;

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
      choice({ key: "axis", label: "Axis", options: ["steps", "time, η × steps"] }),
    ],
    changed,
    [rate],
  );
  const presets = presetButtons("Try this", PRESETS, (values) => {
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
  const plots = [spectrum, rotation, losses, fit];
  const line = status();
  const table = facts("The latest step in numbers");

  let began = "";
  let told = 0;
  const training = trainer({
    values: form.values,
    speed: () => SPEEDS[form.values().speed],
    changed: redraw,
  });
  const link = address({
    values: form.values,
    set: (values) => {
      form.set(values);
      apply();
    },
  });
  const kept = keeper({ take, changed: redraw });

  /** The run as it is now, to be drawn behind others. */
  function take() {
    const history = training.history();
    if (history.length < 2) return undefined;
    // What is kept is a copy: the run goes on.
    const column = (/** @type {string} */ name) => history.column(name).slice();
    const settings = form.values();
    const eta = column("eta");
    const rates = [...new Set(eta)].map((v) => format(v));
    const name =
      `η = ${rates.slice(0, 3).join(", then ")}` +
      (rates.length > 3 ? ", …" : "") +
      `, seed ${settings.seed}`;
    return {
      name,
      settings,
      eta,
      loss: column("loss"),
      lambda1: column("lambda1"),
      time: times(eta),
    };
  }

  /** All that has been recorded. */
  function record() {
    const history = training.history();
    const columns = Object.fromEntries(COLUMNS.map((name) => [name, history.column(name)]));
    return {
      settings: form.values(),
      diverged: training.latest()?.diverged ?? false,
      episodes: training.latest()?.episodes ?? [],
      columns: { ...columns, time: times(history.column("eta")) },
      kept: kept.runs(),
    };
  }

  /** Put in force what the controls say. @param {number} [lead] */
  function apply(lead) {
    const values = form.values();
    presets.mark(values);
    const begins = STARTING.map((key) => values[key]).join();
    if (begins !== began) {
      began = begins;
      training.restart(lead);
    }
    redraw();
  }

  function changed() {
    apply();
    link.write();
  }

  /** The steps that the plots show, and where they stand. */
  function shown() {
    const { view, axis } = form.values();
    const history = training.history();
    const width = VIEWS[view];
    const last = Math.max(0, history.length - 1);
    const first = width < Infinity ? Math.max(0, last - width) : 0;
    const time = axis === 1 ? times(history.column("eta")) : undefined;
    const eta = form.values().eta;
    // Beyond what there is yet, time goes on at the present rate.
    const at = (/** @type {number} */ t) =>
      time ? (time[Math.min(t, last)] ?? 0) + eta * Math.max(0, t - last) : t;
    const length = kept.runs().map((run) => (time ? run.time[run.time.length - 1] : run.eta.length));
    // A little room at the right, for the latest point.
    const right =
      width < Infinity ? at(first + 1.02 * width) : Math.max(at(200), ceiling(1.02 * at(last)));
    const end = width < Infinity ? right : Math.max(right, ...length);
    return { first, last, at, end };
  }

  function draw() {
    const values = form.values();
    // Words and numbers that change with every frame can be neither read nor read aloud.
    const now = performance.now();
    const speak = !training.playing() || now - told > 150;
    if (speak) told = now;
    const history = training.history();
    const runs = kept.runs();
    const view = { history, latest: training.latest(), values, kept: runs, speak, ...shown() };
    const start = view.at(view.first);
    for (const plot of [losses, spectrum, rotation]) {
      plot.x.domain = [start, view.end];
      plot.x.label = values.axis === 1 ? "time ηt" : "step";
      // A label at the very end would be cut off.
      plot.x.format = (step) =>
        step > view.end - 0.03 * (view.end - start) ? "" : step.toLocaleString("en-US");
    }
    rate.hint(`unstable above 2/η = ${format(2 / values.eta)}`);
    drawSpectrum(spectrum, view);
    drawRotation(rotation, view);
    drawLoss(losses, view);
    drawFit(fit, view);
    if (!speak) return;
    if (history.length) table.set(factsOf(view, training.playing() ? training.rate() : 0));
    const asks = training.arrived() && !training.playing();
    line.say(training.broken() || (asks ? describeArrival(view) : describeRun(view)));
  }

  apply(Object.keys(readAddress()).length === 0 ? LEAD : 0);
  return {
    elements: [
      bar(training.element, rate.element),
      line.element,
      layout(
        [
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
        [
          presets.element,
          kept.element,
          form.element,
          link.element,
          exportButtons("network", record, () => plots),
        ],
      ),
    ],
    values: form.values,
    history: training.history,
    latest: training.latest,
    runs: training.runs,
    busy: training.busy,
    leading: training.leading,
    kept: kept.runs,
    record,
    playing: training.playing,
    times: drawing.times,
  };
});

/** @param {number} value */
function powerOfTen(value) {
  return `10${superscript(Math.round(Math.log10(value)))}`;
}

/** @param {Plot} plot */
function wide(plot) {
  plot.element.classList.add("pg-wide");
  return plot.element;
}
