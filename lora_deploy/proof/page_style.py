"""How the certificate's page looks: light and dark, desktop, phone and paper."""

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--ink:#1b1d21;--soft:#565d68;--line:#d8dce2;--tile:#f5f6f8;
--good:#0b6b37;--good-bg:#e6f4eb;--bad:#a81c15;--bad-bg:#fdeae8;--warn:#7a4f00;--warn-bg:#fff3d9;--bar:#3b74b8}
@media (prefers-color-scheme:dark){:root{--bg:#15171a;--ink:#e9ebee;--soft:#a9b0bb;--line:#373c45;--tile:#1f2227;
--good:#79d8a0;--good-bg:#14301f;--bad:#ffa299;--bad-bg:#421c18;--warn:#f3c76f;--warn-bg:#382c12;--bar:#6ea6e6}}
*{box-sizing:border-box}
body{font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;margin:0 auto;
max-width:60rem;padding:1.5rem 1rem 4rem;background:var(--bg);color:var(--ink);font-variant-numeric:tabular-nums;
overflow-wrap:break-word;-webkit-text-size-adjust:100%}
h1{font-size:1.75rem;line-height:1.2;margin:0}
bdi{overflow-wrap:anywhere}
h2{font-size:1.25rem;line-height:1.3;margin:0 0 .6rem}
section{margin-top:2.75rem}
p{margin:.5rem 0;max-width:46rem}
ul,ol,dl{margin:0;padding:0;list-style:none}
dd{margin:0}
small{color:var(--soft);font-size:.85em}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.good{color:var(--good)}.bad{color:var(--bad)}
.soft{color:var(--soft)}
.void-page section{--good:var(--soft);--good-bg:var(--tile)}

.verdict{display:grid;grid-template-columns:auto 1fr;gap:0 1.1rem;padding:1.4rem 1.5rem;border-radius:.9rem;
border:1px solid;border-left-width:.5rem}
.verdict svg{width:3.5rem;height:3.5rem;grid-row:span 2}
.verdict h1{align-self:center;min-height:2rem}
.verdict div{grid-column:2;color:var(--ink)}
.verdict p:last-child{margin-bottom:0}
.proved{color:var(--good);background:var(--good-bg)}
.failed{color:var(--bad);background:var(--bad-bg)}
.void{color:var(--warn);background:var(--warn-bg)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.9rem 1.25rem;margin-top:1.3rem}
.facts .long{grid-column:1/-1}
.facts dt{color:var(--soft);font-size:.85rem}
.facts dd{font-weight:600}
.plain{list-style:disc;padding-left:1.2rem;max-width:46rem}
.plain li{margin:.35rem 0}
.many{columns:22rem;max-width:none}
.many li{margin:.1rem 0;break-inside:avoid}
h3{font-size:1rem;margin:1.2rem 0 .4rem}

.chain{display:grid;gap:.4rem;margin:1rem 0}
.line{display:flex;flex-wrap:wrap;gap:.5rem 0}
.step{display:flex;align-items:center;min-width:0;max-width:100%}
.node{padding:.5rem .75rem;border:1px solid var(--line);border-radius:.6rem;background:var(--tile);min-width:0;
line-height:1.35}
.node small{display:block}
.edge{display:flex;align-items:center;flex:none}
.edge::before{content:"";width:.8rem;border-top:2px solid var(--soft)}
.edge::after{content:"";width:.5rem;height:.5rem;border-top:2px solid var(--soft);border-right:2px solid var(--soft);
transform:rotate(45deg);margin:0 .2rem 0 .1rem}
.pill{padding:.15rem .6rem;border-radius:.7rem;border:1px solid;line-height:1.3;text-align:center}
.pill small{display:block;color:inherit}
.holds .pill{color:var(--good);background:var(--good-bg)}
.fails .pill{color:var(--bad);background:var(--bad-bg);border-width:2px}
.edge.fails::before{border-top-style:dashed;border-color:var(--bad)}
.node.fails{border:2px solid var(--bad)}
.branches{margin:0 0 .6rem .8rem}
.chain>p,.branches p{margin:.5rem 0 0;font-size:.85rem}
.branches>li{position:relative;padding:.35rem 0}
.branches>li::before{content:"";position:absolute;left:0;top:0;bottom:0;border-left:2px solid var(--soft)}
.branches>li:last-child::before{bottom:50%}

table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.55rem .7rem .55rem 0;border-bottom:1px solid var(--line)}
thead th{font-size:.85rem;font-weight:600;color:var(--soft);vertical-align:bottom}
tbody th{font-weight:600}
td b,td>div>small,thead th{white-space:nowrap}
.stacked thead th:last-child,.stacked td:last-child{padding-right:.4rem}
td small,th small{display:block;font-weight:400;line-height:1.35}
tr.fails>*{background:var(--bad-bg)}
tr.fails>:first-child{box-shadow:inset .25rem 0 var(--bad);padding-left:.7rem}
.over{font-weight:700;color:var(--bad)}
.bar{display:block;height:.5rem;border-radius:.25rem;background:var(--line);margin-top:.45rem;overflow:hidden}
.bar i{display:block;height:100%;background:var(--bar)}
.bars{display:grid;grid-template-columns:fit-content(14rem) minmax(5rem,1fr) fit-content(24rem);gap:0 1.25rem}
.bars li{display:grid;grid-column:1/-1;grid-template-columns:subgrid;padding:.3rem 0}

.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr));gap:.9rem}
.card{display:flex;gap:.9rem;padding:.8rem;border:1px solid var(--line);border-radius:.7rem;background:var(--tile);
break-inside:avoid}
.card p{margin:.1rem 0 .4rem;font-size:.9rem;color:var(--soft)}
.thumbnail{flex:0 0 6rem;width:6rem;height:6rem;object-fit:cover;border-radius:.4rem;background:var(--line)}
.caption{min-width:0}
.caption dt{font-size:.85rem;color:var(--soft);margin-top:.25rem}
.caption dd{line-height:1.4}
.caption dd small{white-space:nowrap}
details{margin-top:.9rem}
summary{cursor:pointer;padding:.4rem 0;font-weight:600}
details[open]>summary{margin-bottom:.4rem}
.words dt{font-weight:600;margin-top:.8rem}
.words dd{max-width:46rem}
.short{width:auto}
.short th,.short td{padding:.3rem 1.5rem .3rem 0}
.short th{font-weight:400}
footer{margin-top:3rem;color:var(--soft);font-size:.9rem}

@media screen and (max-width:50rem){
body{padding-top:1rem}
h1{font-size:1.4rem}
.verdict{padding:1.1rem 1rem;gap:.4rem .8rem}
.verdict svg{width:2.6rem;height:2.6rem;grid-row:auto}
.verdict div{grid-column:1/-1}
.chain>.line{flex-direction:column;gap:0}
.chain>.line .step{flex-direction:column;align-items:flex-start}
.chain>.line .edge{margin-left:1.2rem;padding:.15rem 0 .25rem}
.chain>.line .edge::before{width:0;height:2.7rem;border-top:0;border-left:2px solid var(--soft);margin-right:.6rem}
.chain>.line .edge.fails::before{border-left-style:dashed;border-color:var(--bad)}
.chain>.line .edge::after{display:none}
.branches .edge::before{width:.5rem}
.branches .step+.step{margin-left:1.5rem}
.branches .pill{padding:.15rem .45rem}
.stacked thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.stacked,.stacked tbody,.stacked tr,.stacked th,.stacked td{display:block}
.stacked tr{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.25rem,1fr));gap:.5rem .9rem;border:1px solid var(--line);
border-radius:.7rem;padding:.7rem .8rem;margin-bottom:.7rem;break-inside:avoid}
.stacked tr.fails{border:2px solid var(--bad);background:var(--bad-bg)}
.stacked tr.fails>*{background:none;box-shadow:none}
.stacked th,.stacked td,.stacked tr.fails>*{padding:0;border:0;min-width:0}
.stacked tbody th{grid-column:1/-1;padding-bottom:.35rem;border-bottom:1px solid var(--line)}
.stacked td:last-child:nth-child(even){grid-column:1/-1}
.stacked td::before{content:attr(data-label);display:block;color:var(--soft);font-size:.85rem}
.bars{grid-template-columns:1fr}
.bars li{padding:.5rem 0}
.bar{margin:.3rem 0}
.cards{gap:.7rem}
}
@media print{
:root{--bg:#fff;--ink:#000;--soft:#444;--line:#bbb;--tile:#fff;--good:#0b6b37;--good-bg:#fff;--bad:#a81c15;
--bad-bg:#fff;--warn:#7a4f00;--warn-bg:#fff;--bar:#555;color-scheme:light}
body{max-width:none;padding:0;font-size:10pt}
section{margin-top:1.6rem}
h2{break-after:avoid}
tr,.card,.verdict,.line,.branches>li{break-inside:avoid}
.bar,.bar i{print-color-adjust:exact;-webkit-print-color-adjust:exact}
details::details-content{content-visibility:visible;height:auto}
}
"""
