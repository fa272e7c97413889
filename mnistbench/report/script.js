// The table library, `DataTable`, stands above this in the same script, so that one checksum in the page's policy
// covers both. Without it the page reads the same; it only sorts, filters, copies and downloads less.

const root = document.documentElement;
root.classList.add("scripted");

// Light, dark, or as the system says.
const theme = document.querySelector(".theme");
const themes = ["auto", "light", "dark"];
theme.hidden = false;
theme.addEventListener("click", () => {
  const next = themes[(themes.indexOf(theme.dataset.theme) + 1) % themes.length];
  theme.dataset.theme = next;
  theme.textContent = `Theme: ${next}`;
  root.style.colorScheme = next === "auto" ? "" : next;
});

// Tables.
function csvCell(_data, _row, _column, node) {
  const order = node.dataset.order;
  if (order !== undefined && order !== "" && Math.abs(Number(order)) < 1e300) return order;
  const text = node.textContent.trim();
  if (!node.classList.contains("n") || order !== undefined) return text === "–" ? "" : text;
  const number = Number(text.replace(/[,%\s]/g, ""));
  return text.endsWith("%") ? String(Number((number / 100).toPrecision(12))) : String(number);
}

function button(extend, text, table) {
  return {
    extend, text, title: null, messageTop: null, messageBottom: null, filename: table.id, fieldSeparator: ",", fieldBoundary: '"', header: true, footer: false,
    exportOptions: { columns: ":visible", format: { body: csvCell, header: (_d, _c, node) => node.dataset.title } },
  };
}

function columnFilters(api, table) {
  const menus = document.createElement("div");
  menus.className = "table-menus";
  api.columns().every(function () {
    const head = this.header();
    if (!("filtered" in head.dataset)) return;
    const values = [...new Set(this.nodes().toArray().map((node) => node.textContent.trim()))];
    if (values.length < 2 || values.length > 40) return;
    const menu = document.createElement("select");
    menu.setAttribute("aria-label", `Show only this ${head.dataset.title} in ${table.dataset.caption}`);
    menu.append(new Option(`any ${head.dataset.title}`, ""), ...values.map((value) => new Option(value, value)));
    menu.addEventListener("change", () => this.search(menu.value, { exact: menu.value !== "" }).draw());
    menus.append(menu);
  });
  return menus;
}

function enhance(table) {
  if (table.dataset.enhanced) return;
  table.dataset.enhanced = "yes";
  const wrapper = table.closest(".table");
  const rows = table.tBodies[0].rows.length;
  const heads = [...table.tHead.rows[0].cells];
  const large = rows > 10;
  const api = new DataTable(table, {
    order: [],
    autoWidth: false,
    paging: rows > 20,
    pageLength: 15,
    lengthChange: false,
    searching: rows > 3,
    info: large,
    columnDefs: [{ targets: heads.flatMap((head, i) => ("hidden" in head.dataset ? [i] : [])), visible: false }],
    language: { search: `Filter ${table.dataset.caption}`, searchPlaceholder: "Filter, any words", info: "_START_ to _END_ of _TOTAL_ rows",
      infoFiltered: "(of _MAX_)", infoEmpty: "no rows", zeroRecords: "No row matches the filter." },
    layout: {
      topStart: large ? "search" : null,
      topEnd: { buttons: [{ extend: "colvis", text: "Columns", columnText: (_api, _i, title) => title },
        button("copyHtml5", "Copy as CSV", table), button("csvHtml5", "Save CSV", table)] },
      bottomStart: large ? "info" : null,
      bottomEnd: rows > 20 ? "paging" : null,
    },
  });
  if (large) {
    const menus = columnFilters(api, table);
    if (menus.childElementCount) wrapper.querySelector(".dt-layout-start").append(menus);
  }
  wrapper.classList.add("enhanced");
  const scroller = wrapper.querySelector(".dt-layout-table");
  for (const name of ["tabindex", "role", "aria-label"]) {
    if (scroller) scroller.setAttribute(name, wrapper.getAttribute(name));
    wrapper.removeAttribute(name);
  }
}

for (const table of document.querySelectorAll("main table")) {
  const details = table.closest("details");
  if (!details) enhance(table);
  else details.addEventListener("toggle", () => details.open && enhance(table));
}

// On paper nobody turns pages.
function pageLength(rows) {
  for (const table of DataTable.tables()) {
    const api = new DataTable.Api(table);
    if (api.settings()[0].oFeatures.bPaginate && api.rows().count() <= 200) api.page.len(rows).draw();
  }
}
addEventListener("beforeprint", () => pageLength(-1));
addEventListener("afterprint", () => pageLength(15));

// A download is gzip inside a link; where the browser can, it is handed over unpacked.
for (const link of document.querySelectorAll("a[data-unpacked]")) {
  if (typeof DecompressionStream === "undefined") break;
  link.addEventListener("click", async (event) => {
    if (link.dataset.ready) return;
    event.preventDefault();
    const packed = Uint8Array.from(atob(link.getAttribute("href").split(",")[1]), (character) => character.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const text = await new Response(stream).blob();
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = link.dataset.unpacked;
    link.dataset.ready = "yes";
    link.click();
  });
}

// The question in sight is the one marked in the list.
const entries = new Map([...document.querySelectorAll(".toc a")].map((link) => [link.hash.slice(1), link]));
const inSight = new Set();
const watcher = new IntersectionObserver((changes) => {
  for (const change of changes) inSight[change.isIntersecting ? "add" : "delete"](change.target.id);
  const first = [...entries.keys()].find((id) => inSight.has(id));
  if (!first) return;
  for (const [id, link] of entries) {
    if (id === first) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}, { rootMargin: "-10% 0px -60% 0px" });
for (const section of document.querySelectorAll("main > section")) watcher.observe(section);
