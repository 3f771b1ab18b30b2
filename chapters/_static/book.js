"use strict";
(() => {
  // The search page shows an excerpt of each page found, which a page from the disk may not read.
  if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

  // What is wider than the text scrolls by itself; a keyboard can scroll only what has focus.
  const scrollers =
    ".bd-content div.math, .bd-content mjx-container[display='true'], .bd-content figure, " +
    ".bd-content table.table";

  function update() {
    for (const element of document.querySelectorAll(scrollers)) {
      if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
      else element.removeAttribute("tabindex");
    }
  }

  window.addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    update();
    new ResizeObserver(update).observe(document.querySelector("main"));
    document.addEventListener("toggle", update, true);
  });
})();
