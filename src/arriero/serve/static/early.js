// Runs before anything is drawn, so that the page does not flash in the other theme or language.
(() => {
  const read = (key) => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  };
  const theme = read("arriero.theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  const chinese = (navigator.language ?? "").toLowerCase().startsWith("zh");
  document.documentElement.lang = read("arriero.language") ?? (chinese ? "zh" : "en");
})();
