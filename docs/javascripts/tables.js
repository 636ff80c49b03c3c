// A column of phrases keeps a width at which they can be read; the table scrolls instead.
document.querySelectorAll(".md-typeset td").forEach((cell) => {
  const length = cell.textContent.length;
  if (length > 24) {
    cell.style.minWidth = `min(${Math.min(length / 5, 14)}rem, 60vw)`;
  }
});
