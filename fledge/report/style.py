"""How a page looks: one style sheet, light and dark, phone and paper. Colours of text reach a contrast of 4.5 on their ground."""

STYLE = """
:root { color-scheme: light dark;
  --ground: #fbfaf7; --card: #ffffff; --ink: #1f2328; --soft: #5b626b; --rule: #e3e0d8; --wash: #f3f1ea;
  --accent: #0b6e69; --accent-wash: #d9efec; --accent-line: #0b6e69;
  --c0: #0b6e69; --c1: #c2571a; --c2: #5b55c0; --c3: #a8326b; --c4: #47751f; --c5: #6b7280; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #14171a; --card: #1b1f23; --ink: #e6e4de; --soft: #a3a9b0; --rule: #30363c; --wash: #22272c;
  --accent: #63cfc5; --accent-wash: #16403d; --accent-line: #63cfc5;
  --c0: #63cfc5; --c1: #f0985c; --c2: #a9a4f5; --c3: #ef8fb8; --c4: #a3cf6f; --c5: #a3a9b0; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 1.0625rem/1.6 "Iowan Old Style", "Palatino Linotype", Palatino, Charter, "Bitstream Charter", Georgia, serif; }
main, body > header, body > footer { max-width: 50rem; margin: 0 auto; padding: 0 1.25rem; }
body > header { padding-top: clamp(2rem, 7vw, 4.5rem); padding-bottom: 1.25rem; }
h1, h2, h3, nav, table, dl, figure, .label, body > footer, summary { font-family: system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", "Noto Sans", Arial, sans-serif; }
h1 { font-size: clamp(1.9rem, 5vw, 2.75rem); line-height: 1.12; letter-spacing: -.022em; font-weight: 700; margin: 0; text-wrap: balance;
  }
header p { color: var(--soft); font-size: 1.2rem; line-height: 1.45; margin: .7rem 0 0; text-wrap: pretty; }
h2 { font-size: 1.5rem; line-height: 1.25; letter-spacing: -.012em; margin: 3.5rem 0 .8rem; padding-top: 1.4rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1.1rem; margin: 2.2rem 0 .5rem; }
p { margin: 0 0 1rem; max-width: 42rem; text-wrap: pretty; overflow-wrap: break-word; }
nav { font-size: .9rem; line-height: 1.4; padding: .2rem 0; }
nav ol { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: .35rem 1.25rem; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: .2em; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 1px; margin: 1.4rem 0; padding: 0;
  background: var(--card); border: 1px solid var(--rule); border-radius: .6rem; overflow: hidden; }
dl > div { padding: .8rem 1rem; box-shadow: 0 0 0 1px var(--rule); }
dt { color: var(--soft); font-size: .8125rem; line-height: 1.35; }
dd { margin: .15rem 0 0; font-size: 1.125rem; font-weight: 600; line-height: 1.35; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
figure { margin: 1.8rem 0; }
figcaption, caption { text-align: left; font-weight: 600; font-size: .97rem; line-height: 1.4; margin: 0 0 .65rem; }
caption { padding: 0 0 .55rem; caption-side: top; }
.wide { overflow-x: auto; }
.wide:focus-visible { outline: 2px solid var(--accent-line); outline-offset: 3px; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .5rem .8rem; border-bottom: 1px solid var(--rule); vertical-align: baseline; font-weight: 400; }
thead th { color: var(--soft); font-size: .8125rem; font-weight: 600; border-bottom: 1px solid var(--soft); vertical-align: bottom; }
.number { text-align: right; white-space: nowrap; }
td small { color: var(--soft); font-size: .8125rem; margin-left: .5em; }
tr.best th, tr.best td { background: var(--accent-wash); }
tr.best th, tr.best .number { font-weight: 650; }
tr.best small { font-weight: 400; color: var(--ink); }
.badge { color: var(--accent); font-size: .75rem; font-weight: 650; letter-spacing: .03em; margin-left: .6em; white-space: nowrap; }
pre, code, .sample, .tokens { font-family: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .84rem; line-height: 1.6; }
pre { margin: 0; padding: .9rem 1.1rem; background: var(--wash); border: 1px solid var(--rule); border-radius: .6rem; overflow-x: auto;
  tab-size: 4; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif; fill: var(--soft);
  font-variant-numeric: tabular-nums; }
svg .strong { fill: var(--ink); }
svg .bold { font-weight: 650; fill: var(--ink); }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2.25; stroke-linejoin: round; stroke-linecap: round; }
svg .spot { fill: transparent; }
svg .spot:hover { fill: var(--ink); fill-opacity: .18; }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); } .s3 { stroke: var(--c3); } .s4 { stroke: var(--c4); }
  .s5 { stroke: var(--c5); }
.d1 { stroke-dasharray: 7 4; } .d2 { stroke-dasharray: 2 4; } .d3 { stroke-dasharray: 10 3 2 3; } .d4 { stroke-dasharray: 4 2; }
  .d5 { stroke-dasharray: 1 5; }
.first { fill: var(--c0); } .other { fill: var(--c5); fill-opacity: .55; }
svg .whisker { stroke: var(--c5); stroke-width: 2; stroke-linecap: round; } svg .whisker.first { stroke: var(--c0); stroke-width: 2.75; }
svg .cell { fill: var(--c0); }
svg text.over { fill: var(--card); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .84rem; color: var(--soft); margin: 0 0 .5rem; padding: 0;
  list-style: none; }
.legend svg { display: inline-block; width: 28px; height: 10px; vertical-align: middle; margin-right: .4rem; }
ol.samples { list-style: none; margin: 0; padding: 0; border-left: 2px solid var(--rule); }
ol.samples li { position: relative; padding: 0 0 1.25rem 1.25rem; }
ol.samples li:last-child { padding-bottom: 0; }
ol.samples li::before { content: ""; position: absolute; left: -6px; top: .42rem; width: 10px; height: 10px; border-radius: 50%;
  background: var(--ground); border: 2px solid var(--accent-line); }
ol.samples li:last-child::before { background: var(--accent-line); }
ul.examples { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem; }
ul.examples .label { overflow-wrap: anywhere; }
.label { font-size: .84rem; line-height: 1.4; color: var(--soft); } .label b { color: var(--ink); font-weight: 650; margin-right: .6em; }
.sample { white-space: pre-wrap; overflow-wrap: anywhere; margin-top: .3rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: .5rem; padding: .6rem .85rem; unicode-bidi: plaintext; }
.sample .prompt { color: var(--soft); }
.tokens { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.95; background: var(--card); border: 1px solid var(--rule);
  border-radius: .6rem; padding: .8rem 1rem; }
.tokens span, .legend .token { color: var(--soft); border-bottom: 1px solid var(--rule); padding: .12em 0 .1em; margin-right: 1px; }
.tokens .trained, .legend .trained { color: var(--ink); background: var(--accent-wash); border-bottom: 2px solid var(--accent-line); }
.tokens i { font-style: normal; opacity: .55; }
.words span { border-radius: .2em; padding: .08em 0; }
.words .for { background: color-mix(in srgb, var(--c0) var(--depth), transparent); }
.words .against { background: color-mix(in srgb, var(--c1) var(--depth), transparent); border-bottom: 2px dotted var(--c1); }
.legend .words span { padding: .1em .5em; color: var(--ink); }
ul.heads { list-style: none; margin: .8rem 0 0; padding: 0; display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); font-size: .8125rem; color: var(--soft); }
svg.head { background: var(--card); border: 1px solid var(--rule); border-radius: .25rem; }
.legend .token { padding: .1em .4em; }
body > footer { color: var(--soft); font-size: .84rem; margin-top: 4rem; padding-bottom: 3rem; }
@media (max-width: 34rem) { body { font-size: 1rem; } .chart { min-width: 34rem; } th, td { padding: .45rem .5rem; }
  tbody th { position: sticky; left: 0; background: var(--ground); min-width: 7rem; max-width: 11rem; overflow-wrap: break-word; }
  h2 { margin-top: 2.6rem; } td small { display: block; margin: 0; }
  .many thead { position: absolute; clip-path: inset(50%); }
  .many, .many caption, .many tbody, .many th, .many td { display: block; }
  .many tbody tr { display: grid; grid-template-columns: repeat(auto-fit, minmax(5.5rem, 1fr)); padding: .45rem 0;
    border-bottom: 1px solid var(--rule); }
  .many tbody th { position: static; grid-column: 1 / -1; max-width: none; background: none; text-align: left; border: 0;
    font-weight: 600; }
  .many td { border: 0; padding-top: 0; text-align: left; white-space: normal; overflow-wrap: anywhere; }
  .many td::before { content: attr(data-name); display: block; color: var(--soft); font-size: .8125rem; } }
@media print { :root { --ground: #fff; --card: #fff; --wash: #fff; --ink: #000; --soft: #444; --rule: #ccc; --accent: #064f4b;
  --accent-wash: #e4f2f0; --accent-line: #0b6e69;
    --c0: #0b6e69; --c1: #b04a10; --c2: #4a44a8; --c3: #942a5d; --c4: #3d661a; --c5: #5b626b; }
  body { font-size: 10.5pt; } nav { display: none; } h2, h3, figcaption, caption { break-after: avoid; }
  figure, tr, dl > div, ol.samples li { break-inside: avoid; } pre, .wide { overflow: visible; white-space: pre-wrap; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
