// How tests/test_book.py checks that the pages are valid HTML: the rules of the standard and of
// accessible markup, not those of style.
export default {
  root: true,
  extends: ["html-validate:standard", "html-validate:a11y"],
  rules: {
    // The theme says of main once more what it is.
    "no-redundant-role": ["error", { exclude: ["main"] }],
  },
};
