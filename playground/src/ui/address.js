/**
 * The state of a playground in the page's address, after the "#": there it also works for a page
 * opened from a disk. The keys of a live figure begin with its name and a dot.
 */
import { button } from "./controls.js";
import { h } from "./dom.js";

/**
 * The numbers in the address, by key; {} for an address that leads to a section.
 *
 * @param {string} [prefix] of the keys; those without it are left out
 */
export function readAddress(prefix = "") {
  /** @type {Record<string, number>} */
  const values = {};
  for (const [key, text] of new URLSearchParams(location.hash.slice(1))) {
    const value = Number(text);
    if (!key.startsWith(prefix) || text === "" || !Number.isFinite(value)) continue;
    values[key.slice(prefix.length)] = value;
  }
  return values;
}

/** @param {Record<string, number>} values @param {string} [prefix] */
export function addressOf(values, prefix = "") {
  const pairs = Object.entries(values).map(([key, value]) => [prefix + key, String(value)]);
  return `${location.href.split("#")[0]}#${new URLSearchParams(pairs)}`;
}

let timer = 0;

/**
 * Put values into the address, without an entry in the history, soon: browsers allow some hundred
 * such changes in half a minute, and a slider makes more.
 *
 * @param {Record<string, number>} values
 */
export function writeAddress(values) {
  clearTimeout(timer);
  const address = addressOf(values);
  timer = setTimeout(() => history.replaceState(null, "", address), 200);
}

/**
 * A button that copies the address of the present state.
 *
 * @param {() => Record<string, number>} values
 * @param {string} [prefix] of their keys
 */
export function copyLink(values, prefix) {
  const said = h("span", { class: "pg-copied", role: "status" });
  const copy = button("Copy link", async () => {
    const address = addressOf(values(), prefix);
    history.replaceState(null, "", address);
    said.textContent = (await toClipboard(address)) ? "Copied." : "The link is in the address bar.";
    setTimeout(() => (said.textContent = ""), 4000);
  });
  return h("span", { class: "pg-copy" }, copy, said);
}

/** @param {string} text @returns {Promise<boolean>} */
async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Not allowed here: the address bar holds it.
    return false;
  }
}
