"use strict";
// While the check runs, the page is fetched again every second.
const box = document.getElementById("check");
const look = async () => {
  const answer = await fetch("/data", { headers: { Accept: "text/html" } });
  if (!answer.ok || answer.redirected) return;
  const found = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("check");
  if (!found) return;
  box.replaceChildren(...found.childNodes);
  box.dataset.state = found.dataset.state;
  if (box.dataset.state === "running") setTimeout(look, 1000);
};
if (box.dataset.state === "running") setTimeout(look, 1000);
