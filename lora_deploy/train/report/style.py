"""How the report looks beyond what it shares with the certificate: light and dark, desktop, phone and paper."""

REPORT_STYLE = """
:root{--second:#a8500a;--on-fill:#fff}
@media (prefers-color-scheme:dark){:root{--second:#f0a35e;--on-fill:#10151c}}
.hero{padding:1.4rem 1.5rem;border:1px solid var(--line);border-left:.5rem solid var(--bar);border-radius:.9rem;
background:var(--tile)}
.hero h1{margin:0 0 .2rem}
.hero p:last-child{margin-bottom:0}
.kicker{margin:0;color:var(--soft);font-size:.9rem}
.scale{position:relative;height:2.9rem;margin:1rem 0 .6rem;max-width:46rem}
.scale::before{content:"";position:absolute;top:.45rem;left:0;right:0;height:.5rem;border-radius:.25rem;background:var(--line)}
.scale i{position:absolute;top:.45rem;height:.5rem;border-radius:.25rem;background:var(--bar);opacity:.55}
.scale b{position:absolute;top:0;width:.3rem;height:1.4rem;margin-left:-.15rem;border-radius:.15rem;background:var(--bar)}
.scale s{position:absolute;top:.15rem;height:1.1rem;border-left:2px dashed var(--ink)}
.scale span{position:absolute;top:1.5rem;font-size:.8rem;color:var(--soft);white-space:nowrap;transform:translateX(-50%)}
.scale .start{transform:none}.scale .end{transform:translateX(-100%)}
.facts{align-items:end}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(22rem,100%),1fr));gap:1.2rem}
.chart{margin:0;min-width:0}
.chart svg{display:block;width:100%;height:auto}
.chart figcaption{font-weight:600;font-size:1rem;display:flex;flex-wrap:wrap;gap:.1rem 1rem;align-items:baseline}
.key{font-weight:400;font-size:.85rem;color:var(--soft);white-space:nowrap}
.key svg{display:inline-block;width:1.6rem;height:.6rem;margin-right:.35rem;vertical-align:baseline}
.axis{fill:var(--soft);font-size:13px}
.grid{stroke:var(--line);stroke-width:1}
.best{stroke:var(--good);stroke-width:1.5;stroke-dasharray:2 3}
.best-word{fill:var(--good);font-size:13px}
.first,.second{fill:none;stroke:var(--bar);stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}
.second{stroke:var(--second);stroke-dasharray:7 4}
.dot{fill:var(--bar)}.second-dot{fill:var(--second)}
.column{fill:var(--bar)}.ideal{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:4 4}
.side{display:grid;grid-template-columns:minmax(0,20rem) minmax(0,1fr);gap:1.5rem;align-items:start}

.matrix{table-layout:fixed;width:auto;max-width:100%;border-spacing:2px;border-collapse:separate}
.matrix th,.matrix td{padding:0;border:0;text-align:center;vertical-align:middle;line-height:1.25}
.matrix col.name{width:13rem}.matrix col.cell{width:2.9rem}.tight col.cell{width:1.7rem}
.matrix thead th{font-weight:600;padding-bottom:.2rem}
.matrix tbody th{text-align:left;font-weight:400;padding-right:.6rem;font-size:.9rem;line-height:1.2}
.matrix tbody th div{max-height:2.4em;overflow:hidden}
.matrix tbody th b{color:var(--soft);font-weight:600;margin-right:.3rem}
.matrix td{height:2.3rem;border-radius:.3rem;background:var(--tile);font-size:.9rem}
.matrix .r{background:color-mix(in srgb,var(--bar) calc(var(--p)*100%),var(--tile))}
.matrix .w{background:color-mix(in srgb,var(--bad) calc(var(--p)*100%),var(--tile))}
.matrix .z{outline:1px solid var(--line);outline-offset:-1px}
.matrix .w.t75,.matrix .r.t88{color:var(--on-fill)}
@media (prefers-color-scheme:dark){.matrix .w.t60,.matrix .r.t75{color:var(--on-fill)}}
.tight td{height:1.5rem;font-size:.75rem}
.tight thead th{font-size:.75rem}
.big{display:block;width:100%;max-width:38rem;height:auto;background:var(--tile);border-radius:.5rem}
.big .r{fill:var(--bar)}.big .w{fill:var(--bad)}
.pairs{max-width:46rem}
.pairs li{display:flex;justify-content:space-between;gap:1rem;padding:.3rem 0;border-bottom:1px solid var(--line)}
.pairs span{min-width:0}.pairs small{flex:none}
.epochs{width:auto;min-width:min(30rem,100%)}
.epochs th,.epochs td{padding:.25rem 1rem .25rem 0}
.card .thumbnail{image-rendering:auto}
.settings{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem;padding:.8rem 1rem;border:1px solid var(--line);
border-radius:.7rem;background:var(--tile);margin:0}

@media screen and (max-width:50rem){
.hero{padding:1.1rem 1rem}
.side{grid-template-columns:1fr}
.epochs thead th{white-space:normal}
.epochs th,.epochs td{padding-right:.5rem;font-size:.85rem}
.matrix{width:100%}
.matrix col.name{width:40%}.dense col.name{width:34%}.matrix col.cell{width:auto}
.matrix td{font-size:.78rem;height:2rem}
.matrix thead th{font-size:.75rem}
.matrix tbody th{font-size:.8rem}
.dense{border-spacing:1px}
.matrix.dense td{font-size:.62rem;height:1.5rem;border-radius:.15rem}
.matrix.dense thead th{font-size:.62rem}
.matrix.dense tbody th{font-size:.7rem}
.matrix.tight td{font-size:0;height:1rem}
.matrix.tight thead th{font-size:.5rem;letter-spacing:-.03em}
.matrix.tight tbody th{font-size:.66rem}
.tight.dense thead{visibility:collapse}
}
@media print{
:root{--second:#555;--on-fill:#fff}
.matrix td,.scale i,.scale b,.scale::before{print-color-adjust:exact;-webkit-print-color-adjust:exact}
.chart{break-inside:avoid}
}
"""
