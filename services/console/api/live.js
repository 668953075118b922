// Keeps the counts fresh without touching the search box. A page without scripts reloads itself instead.
async function refresh() {
  try {
    const answer = await fetch("/live");
    if (answer.ok) document.getElementById("live").innerHTML = await answer.text();
  } catch { /* the console is away; the last counts stay, and the next turn asks again */ }
  setTimeout(refresh, 1000);
}
setTimeout(refresh, 1000);
