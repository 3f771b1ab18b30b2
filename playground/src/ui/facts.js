/** A small table of numbers. */
import { h } from "./dom.js";

/** @param {string} caption */
export function facts(caption) {
  const body = h("tbody");
  let key = "";
  return {
    element: h(
      "div",
      { class: "pg-table" },
      h("table", { class: "pg-facts" }, h("caption", {}, caption), body),
    ),
    /** @param {[string, string][]} rows name and value */
    set(rows) {
      const next = JSON.stringify(rows);
      if (next === key) return;
      key = next;
      body.replaceChildren(
        ...rows.map(([name, value]) =>
          h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value)),
        ),
      );
    },
  };
}
