"""How the certificate's page looks: light and dark, desktop, phone and paper."""

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--ink:#1b1d21;--soft:#565d68;--line:#d8dce2;--tile:#f5f6f8;
--good:#0b6b37;--good-bg:#e6f4eb;--bad:#a81c15;--bad-bg:#fdeae8;--warn:#7a4f00;--warn-bg:#fff3d9;--bar:#3b74b8}
@media (prefers-color-scheme:dark){:root{--bg:#15171a;--ink:#e9ebee;--soft:#a9b0bb;--line:#373c45;--tile:#1f2227;
--good:#79d8a0;--good-bg:#14301f;--bad:#ffa299;--bad-bg:#421c18;--warn:#f3c76f;--warn-bg:#382c12;--bar:#6ea6e6}}
*{box-sizing:border-box}
body{font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;margin:0 auto;
max-width:60rem;padding:1.5rem 1rem 4rem;background:var(--bg);color:var(--ink);font-variant-numeric:tabular-nums;
overflow-wrap:anywhere;-webkit-text-size-adjust:100%}
h1{font-size:1.75rem;line-height:1.2;margin:0;text-wrap:balance}
h2{font-size:1.25rem;line-height:1.3;margin:0 0 .6rem}
section{margin-top:2.75rem}
p{margin:.5rem 0;max-width:46rem}
ul,ol,dl{margin:0;padding:0;list-style:none}
dd{margin:0}
small{color:var(--soft);font-size:.85em}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.good{color:var(--good)}.bad{color:var(--bad)}
.soft{color:var(--soft)}

.verdict{display:grid;grid-template-columns:auto 1fr;gap:0 1.1rem;padding:1.4rem 1.5rem;border-radius:.9rem;
border:1px solid;border-left-width:.5rem}
.verdict svg{width:3.5rem;height:3.5rem;grid-row:span 2}
.verdict h1{align-self:center;min-height:2rem}
.verdict div{grid-column:2;color:var(--ink)}
.proved{color:var(--good);background:var(--good-bg)}
.failed{color:var(--bad);background:var(--bad-bg)}
.void{color:var(--warn);background:var(--warn-bg)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:.9rem 1.5rem;margin-top:1.3rem}
.facts dt{color:var(--soft);font-size:.85rem}
.facts dd{font-weight:600}
.plain{list-style:disc;padding-left:1.2rem;max-width:46rem}
.plain li{margin:.35rem 0}

.chain{display:grid;gap:1.2rem}
.line{display:flex;flex-wrap:wrap;align-items:center;gap:.5rem}
.node{padding:.55rem .8rem;border:1px solid var(--line);border-radius:.6rem;background:var(--tile);min-width:0}
.node small{display:block;line-height:1.35}
.edge{display:flex;align-items:center;gap:.4rem;min-width:0}
.edge::before,.edge::after{content:"";flex:1 1 .7rem;min-width:.7rem;border-top:2px solid var(--line)}
.edge::after{border:0;flex:none;min-width:0;width:.5rem;height:.5rem;border-top:2px solid var(--soft);
border-right:2px solid var(--soft);transform:rotate(45deg);margin-left:-.35rem}
.pill{padding:.2rem .65rem;border-radius:.7rem;border:1px solid;line-height:1.3;text-align:center}
.pill small{display:block;color:inherit}
.holds .pill{color:var(--good);background:var(--good-bg)}
.fails .pill{color:var(--bad);background:var(--bad-bg);border-width:2px}
.edge.fails::before{border-top-style:dashed;border-color:var(--bad)}
.node.fails{border:2px solid var(--bad)}
.branches{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(20.5rem,100%),1fr));gap:.7rem 1.5rem;
padding:.2rem 0 .2rem 1rem;margin-left:1rem;border-left:2px solid var(--line)}
.branches .line{flex-wrap:nowrap}
.branches>li{min-width:0}
.branches .branches{margin-top:.7rem;grid-template-columns:1fr}

table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.55rem .7rem .55rem 0;border-bottom:1px solid var(--line)}
thead th{font-size:.85rem;font-weight:600;color:var(--soft);vertical-align:bottom}
tbody th{font-weight:600}
td small,th small{display:block;font-weight:400;line-height:1.35}
tr.fails>*{background:var(--bad-bg)}
tr.fails>:first-child{box-shadow:inset .25rem 0 var(--bad);padding-left:.7rem}
.over{font-weight:700;color:var(--bad)}
.bar{display:block;height:.5rem;border-radius:.25rem;background:var(--line);margin-top:.45rem;overflow:hidden}
.bar i{display:block;height:100%;background:var(--bar)}
.bars li{display:grid;grid-template-columns:11rem minmax(6rem,1fr) minmax(13rem,auto);gap:0 1rem;
padding:.3rem 0}

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

@media (max-width:45rem){
body{padding-top:1rem}
h1{font-size:1.4rem}
.verdict{padding:1.1rem 1rem;gap:.4rem .8rem}
.verdict svg{width:2.6rem;height:2.6rem;grid-row:auto}
.verdict div{grid-column:1/-1}
.chain .line{flex-direction:column;align-items:flex-start;gap:.3rem}
.chain .edge{margin-left:1.2rem}
.chain .edge::before{flex:none;min-width:0;width:0;height:2.2rem;border-top:0;border-left:2px solid var(--line)}
.chain .edge.fails::before{border-left:2px dashed var(--bad)}
.chain .edge::after{order:-1;transform:rotate(135deg);margin:0 -.85rem 0 -.2rem;align-self:flex-end;
border-color:var(--soft)}
.branches{margin-left:0;padding-left:.8rem;gap:1.1rem}
.stacked thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.stacked,.stacked tbody,.stacked tr,.stacked th,.stacked td{display:block}
.stacked tr{border:1px solid var(--line);border-radius:.7rem;padding:.5rem .8rem;margin-bottom:.7rem}
.stacked tr.fails{border:2px solid var(--bad);background:var(--bad-bg)}
.stacked tr.fails>*{background:none;box-shadow:none;padding-left:0}
.stacked tbody th{padding:.2rem 0 .4rem;border:0}
.stacked td{display:grid;grid-template-columns:8.5rem 1fr;gap:.8rem;padding:.3rem 0;border-bottom:0;
border-top:1px solid var(--line)}
.stacked td::before{content:attr(data-label);color:var(--soft);font-size:.9rem}
.bars li{grid-template-columns:1fr;padding:.5rem 0}
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
