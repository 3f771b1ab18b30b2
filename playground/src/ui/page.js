/** What all playgrounds share: where they stand, when they draw, what they say aloud. */
import { copyLink, readAddress, writeAddress } from "./address.js";
import { h } from "./dom.js";
import { reducedMotion } from "./theme.js";

const BETWEEN_ANNOUNCEMENTS = 1500;

/**
 * Build a playground in its place on the page, once that is there.
 *
 * @param {string} name as in data-playground
 * @param {(root: HTMLElement) => {elements?: HTMLElement[]}} build fills the root, which is empty,
 *     or gives the elements to fill it with; what else it gives is kept as root.playground
 */
export function mount(name, build) {
  whenReady(() => {
    const selector = `.playground[data-playground="${name}"]`;
    const root = /** @type {HTMLElement | null} */ (document.querySelector(selector));
    if (root) fill(root, build);
  });
}

/**
 * Build the live figures of a chapter in their places, as many as there are.
 *
 * @param {Record<string, (given: DOMStringMap) => {elements: HTMLElement[]}>} figures by their names
 *     in data-figure; each is given the other data of its place
 */
export function mountFigures(figures) {
  whenReady(() => {
    for (const place of document.querySelectorAll(".live-figure")) {
      const root = /** @type {HTMLElement} */ (place);
      const build = figures[root.dataset.figure ?? ""];
      if (!build) continue;
      fill(root, () => build(root.dataset));
      followAddress(root, `${root.dataset.figure}.`);
      if ("plays" in root.dataset) playOnceSeen(root);
      foldStill(root);
    }
  });
}

/**
 * Open a figure in the state that the page's address gives, also when the reader follows another
 * link to the same page, and offer the address of the present one.
 *
 * @param {HTMLElement} root @param {string} prefix of the figure's keys in the address
 */
function followAddress(root, prefix) {
  const { values, show } = /** @type {any} */ (root).playground;
  const restore = () => {
    const given = readAddress(prefix);
    if (Object.keys(given).length === 0) return;
    show(given);
    root.scrollIntoView();
  };
  window.addEventListener("hashchange", restore);
  restore();
  root.querySelector(".pg-controls")?.append(copyLink(values, prefix));
}

/**
 * Play a figure by itself, once, when it comes into sight; not where the reader asked for less motion.
 *
 * @param {HTMLElement} root with data-plays
 */
function playOnceSeen(root) {
  if (reducedMotion()) return;
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    seen.disconnect();
    /** @type {any} */ (root).playground.play();
  });
  seen.observe(root);
}

/**
 * Fold the figure at rest that a live one repeats; on paper, and for who asks for it, it is open.
 *
 * @param {HTMLElement} root with the name of that figure as data-still
 */
function foldStill(root) {
  const figure = document.getElementById(root.dataset.still ?? "");
  if (!figure) return;
  const open = matchMedia("print").matches || location.hash === `#${figure.id}`;
  const folded = h("details", { class: "pg-still", open }, h("summary", {}, "The same at rest"));
  folded.append(...figure.childNodes);
  figure.append(folded);
  window.addEventListener("beforeprint", () => (folded.open = true));
}

/** @param {() => void} start */
function whenReady(start) {
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
}

/** @param {HTMLElement} root @param {(root: HTMLElement) => {elements?: HTMLElement[]}} build */
function fill(root, build) {
  root.replaceChildren();
  const { elements = [], ...rest } = build(root);
  root.append(...elements);
  Object.assign(root, { playground: rest });
  root.dataset.ready = "true";
}

/**
 * Pictures and, beside them or, where there is no room, below, what controls them.
 *
 * @param {HTMLElement[]} main @param {HTMLElement[]} side
 */
export function layout(main, side) {
  return h(
    "div",
    { class: "pg-layout" },
    h("div", { class: "pg-main" }, ...main),
    h("div", { class: "pg-side" }, ...side),
  );
}

/** A bar that stays in sight: what plays the run, and its learning rate. @param {...HTMLElement} children */
export function bar(...children) {
  return h("div", { class: "pg-bar pg-stays" }, ...children);
}

/**
 * Draw at most once a frame, when asked to.
 *
 * @param {() => void} draw
 */
export function frames(draw) {
  let asked = 0;
  /** @type {number[]} how many milliseconds of script the last frames took */
  const times = [];
  return {
    times,
    request() {
      asked ||= requestAnimationFrame(() => {
        asked = 0;
        const begin = performance.now();
        draw();
        times.push(performance.now() - begin);
        if (times.length > 600) times.shift();
      });
    },
  };
}

/**
 * A line of text that tells the state: seen at once, read aloud only now and then.
 *
 * @returns {{element: HTMLElement, say: (text: string) => void}}
 */
export function status() {
  const seen = h("p", { class: "pg-status" });
  const aloud = h("div", { class: "pg-aloud", "aria-live": "polite", role: "status" });
  let timer = 0;
  let latest = "";
  return {
    element: h("div", {}, seen, aloud),
    say(text) {
      if (text === latest) return;
      latest = text;
      seen.textContent = text;
      timer ||= setTimeout(() => {
        timer = 0;
        aloud.textContent = latest;
      }, BETWEEN_ANNOUNCEMENTS);
    },
  };
}

/**
 * Keep the page's address and a set of values the same.
 *
 * @param {object} options
 * @param {() => Record<string, number>} options.values
 * @param {(values: Record<string, number>) => void} options.set called at once, and when the
 *     reader follows another link to the same page
 */
export function address({ values, set }) {
  const restore = () => {
    const given = readAddress();
    if (Object.keys(given).length > 0) set(given);
  };
  window.addEventListener("hashchange", restore);
  restore();
  return { element: copyLink(values), write: () => writeAddress(values()) };
}
