"use strict";
// The button waits until at least two and not too many runs are chosen.
const form = document.getElementById("choose");
if (form) {
  const button = document.getElementById("compare"), said = document.getElementById("chosen"), most = Number(form.dataset.most);
  const look = () => {
    const chosen = form.querySelectorAll("input:checked").length;
    button.disabled = chosen < 2 || chosen > most;
    said.textContent = chosen > most ? `at most ${most}, ${chosen} are chosen` : chosen ? `${chosen} chosen` : "";
  };
  form.addEventListener("change", look);
  look();
}
