// What keeps people from using what a page shows now, as a list of texts. Run as the body of a function.
const shown = [...document.querySelectorAll("body *")].filter(e => e.checkVisibility({visibilityProperty: true}));
const found = [];
// 1. Names: of what can be operated, and of pictures.
for (const e of shown.filter(e => e.matches("button, a[href], input, select, textarea, summary, [tabindex='0'], img"))) {
    const ids = (e.getAttribute("aria-labelledby") || "").split(" ").filter(Boolean);
    const name = e.getAttribute("aria-label") || ids.map(id => document.getElementById(id).textContent).join("") ||
        e.alt || [...(e.labels || [])].map(l => l.textContent).join("") || e.textContent +
            [...e.querySelectorAll("img")].map(i => i.alt).join("");
    if (!name.trim()) found.push(`no name: ${e.outerHTML.slice(0, 80)}`);
    const {width, height} = e.getBoundingClientRect();
    if (e.matches("button, select, input, summary") && Math.min(width, height) < 24) found.push(`small: ${e.outerHTML.slice(0, 80)}`);
}
// 2. One h1, no level left out, one main, names of ids used once.
const levels = shown.filter(e => /^H[1-6]$/.test(e.tagName)).map(e => Number(e.tagName[1]));
if (levels.filter(l => l === 1).length !== 1) found.push("not one h1");
levels.forEach((l, i) => { if (i && l > levels[i - 1] + 1) found.push(`h${levels[i - 1]} before h${l}`); });
if (document.querySelectorAll("main").length !== 1) found.push("not one main");
const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
ids.filter((id, i) => ids.indexOf(id) !== i).forEach(id => found.push(`twice: #${id}`));
// 3. Contrast of text, WCAG 2.2 AA: 4.5, or 3 for large letters, by the colours as they are computed.
const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d", {willReadFrequently: true});
const over = (color, [r, g, b]) => {
    canvas.fillStyle = `rgb(${r} ${g} ${b})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const light = rgb => rgb.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
for (const e of shown) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.closest("svg, .old, #stage, .skip, option")) continue;
    const style = getComputedStyle(e), parents = [];
    for (let p = e; p; p = p.parentElement) parents.unshift(getComputedStyle(p).backgroundColor);
    const paper = parents.reduce((below, color) => over(color, below), [255, 255, 255]);
    const [a, b] = [light(over(style.color, paper)), light(paper)].sort((x, y) => y - x);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    const ratio = (a + .05) / (b + .05);
    if (ratio < (large ? 3 : 4.5)) found.push(`contrast ${ratio.toFixed(2)}: ${e.outerHTML.slice(0, 80)}`);
}
return found;
