// Before the first paint, so that a chosen theme does not flash: this one is no module and loads first.
try {
  const chosen = JSON.parse(localStorage.getItem("fledge.theme"));
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch { /* a browser without storage follows the system */ }
