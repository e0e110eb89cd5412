"use strict";
// In the head, so that a page chosen to be dark never flashes white.
(() => {
  const choices = ["automatic", "light", "dark"];
  const read = () => { try { return localStorage.getItem("theme") || "automatic"; } catch { return "automatic"; } };
  const show = (choice) => {
    if (choice === "automatic") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice;
  };
  let now = choices.includes(read()) ? read() : "automatic";
  show(now);
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    if (!button) return;
    button.hidden = false;
    const label = () => { button.textContent = `Theme: ${now}`; };
    label();
    button.addEventListener("click", () => {
      now = choices[(choices.indexOf(now) + 1) % choices.length];
      try { localStorage.setItem("theme", now); } catch { /* a browser that stores nothing forgets the choice */ }
      show(now);
      label();
    });
  });
})();
