"use strict";
// A run that goes on: the server says that something changed, and the page fetches what it shows.
const box = document.getElementById("now"), news = document.getElementById("news");
const address = `/runs/${box.dataset.run}`;
let ends = 0;

const setClock = () => {
  const clock = box.querySelector(".clock");
  ends = clock ? performance.now() + 1000 * Number(clock.dataset.seconds) : 0;
};

const tick = () => {
  const clock = box.querySelector(".clock"), bar = box.querySelector(".clock-bar");
  if (!clock) return;
  const left = Math.max(0, Math.ceil((ends - performance.now()) / 1000));
  clock.textContent = left >= 60 ? `${Math.floor(left / 60)} min ${left % 60} s` : `${left} s`;
  if (bar) bar.value = left;
};

let fetching = false, again = false;
const refresh = async () => {
  if (fetching) { again = true; return; }
  fetching = true;
  try {
    const answer = await fetch(`${address}/now`, { headers: { Accept: "text/html" } });
    if (answer.ok && !answer.redirected) {
      const open = box.querySelector("details")?.open;
      box.innerHTML = await answer.text();
      const details = box.querySelector("details");
      if (details && open !== undefined) details.open = open;
      const said = box.querySelector("#said")?.textContent ?? "";
      if (news.textContent !== said) news.textContent = said;
      setClock();
      tick();
    }
  } finally {
    fetching = false;
    if (again) { again = false; refresh(); }
  }
};

setClock();
tick();
setInterval(tick, 1000);
if (["running", "silent"].includes(box.dataset.state)) {
  const events = new EventSource(`${address}/events`);
  events.addEventListener("changed", (event) => {
    refresh();
    if (JSON.parse(event.data).over) events.close();
  });
}
