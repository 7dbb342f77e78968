"use strict";

// Seconds that the graphs show.
const SPAN = 60;

// What came in that time: `time` in seconds, and the values of the two graphs, or null for
// those that nobody knows.
let samples = [];
// The numbers before, unless the connection was lost since.
let before = null;

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const element = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const rounded = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

function bytes(number) {
  const power = Math.floor(Math.log10(Math.max(number, 1)) / 3);
  return `${rounded.format(number / 1000 ** power)} ${["B", "kB", "MB", "GB", "TB", "PB"][power]}`;
}

// The numbers: when the connection is lost, EventSource connects again by itself.

const events = new EventSource("events");

events.onopen = () => tell("live");

events.onerror = () => {
  tell(events.readyState === EventSource.CLOSED ? "refused" : "reconnecting");
  before = null;
  add({ rate: null, active: null });
};

events.onmessage = (event) => {
  const now = JSON.parse(event.data);
  for (const name of ["requests", "accepted", "peak"]) {
    element(name).textContent = whole.format(now[name]);
  }
  for (const name of ["bytes_received", "bytes_sent"]) {
    element(name).textContent = bytes(now[name]);
  }
  // A page's first second is cut short: it would make much of a few requests.
  const elapsed = before === null ? 0 : now.time - before.time;
  const rate = elapsed > 0.5 ? (now.requests - before.requests) / elapsed : null;
  before = now;
  add({ rate, active: now.active });
};

function tell(state) {
  element("state").textContent = state;
  element("state").className = state;
}

// The graphs: one unit to the right is a second, and 100 units up are the top.

function add(sample) {
  const time = performance.now() / 1000;
  samples.push({ time, ...sample });
  samples = samples.filter((each) => each.time > time - SPAN - 2);
  draw("rate");
  draw("active");
}

function draw(name) {
  const figure = element(name);
  const latest = samples.at(-1);
  const top = roundUp(Math.max(...samples.map((sample) => sample[name])));
  const runs = [[]];
  for (const sample of samples) {
    if (sample[name] === null) {
      runs.push([]);
    } else {
      runs.at(-1).push([SPAN + 1 + sample.time - latest.time, 100 - (100 * sample[name]) / top]);
    }
  }
  const lines = runs.filter((run) => run.length > 1);
  const line = lines.map((run) => `M${run.join("L")}`).join("");
  const area = lines.map((run) => `M${run[0][0]},100L${run.join("L")}V100Z`).join("");
  figure.querySelector(".line").setAttribute("d", line);
  figure.querySelector(".area").setAttribute("d", area);
  const scale = figure.querySelectorAll(".scale span");
  scale[0].textContent = whole.format(top);
  scale[1].textContent = whole.format(top / 2);
  figure.querySelector("output").textContent =
    latest[name] === null ? "–" : whole.format(latest[name]);
}

// What is new comes in from the right while the next second passes.
function move(now) {
  const age = calm.matches || samples.length === 0 ? 1 : now / 1000 - samples.at(-1).time;
  for (const group of document.querySelectorAll("g")) {
    group.setAttribute("transform", `translate(${-Math.min(age, 1)})`);
  }
  requestAnimationFrame(move);
}

// The next one of 2, 4, 6, 8, 10, 20, 40...
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 2)));
  return power * [1, 2, 4, 6, 8, 10].find((factor) => factor * power >= value);
}

// What gives the server something to do.

async function ask(options) {
  const answer = await fetch("hello", { cache: "no-store", ...options });
  return answer.text();
}

function say(text) {
  element("greeting").textContent = text;
}

document.querySelector("form").onsubmit = async (event) => {
  event.preventDefault();
  const body = element("name").value || element("name").placeholder;
  try {
    say(await ask({ method: "POST", body }));
  } catch (error) {
    say(`The server does not answer: ${error.message}`);
  }
};

element("load").onclick = async (event) => {
  const button = event.target;
  let left = 500;
  async function askOneAfterAnother() {
    while (left-- > 0) {
      await ask();
    }
  }
  button.disabled = true;
  try {
    // A browser has six connections to a server, one of which is for the events.
    await Promise.all(Array.from({ length: 4 }, askOneAfterAnother));
    say("500 answers have come.");
  } catch (error) {
    say(`The server does not answer: ${error.message}`);
  }
  button.disabled = false;
};

element("events").textContent = events.url;
requestAnimationFrame(move);
