// The texts that scripts write, translated by the server (app/web/words.py).

export const words = JSON.parse(document.getElementById("words").textContent);
