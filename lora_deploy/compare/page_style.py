"""What the page of a comparison needs beside the style of all pages: dots on tracks, curves, small bars."""

MOST_COLOURS = 6
"""Then they begin again."""

STYLE = """
:root{--c0:#3b74b8;--c1:#b4551d;--c2:#2a7d4f;--c3:#8a4fa3;--c4:#7a6a00;--c5:#4c5a68}
@media (prefers-color-scheme:dark){:root{--c0:#7db2f0;--c1:#f09a5f;--c2:#74cf9b;--c3:#cf9be6;--c4:#dcc75a;--c5:#b3c0cd}}
.lead{margin:1rem 0 0;font-size:1.05rem}
.dots{display:grid;grid-template-columns:fit-content(14rem) minmax(6rem,1fr) fit-content(15rem);gap:0 1.25rem;margin:1rem 0}
.dots li{display:grid;grid-column:1/-1;grid-template-columns:subgrid;align-items:center;padding:.35rem 0}
.dots li>span:first-child{font-weight:600}
.dots small{white-space:nowrap}
.track{position:relative;height:1.5rem;border-bottom:1px solid var(--line)}
.track i,.track b,.track em{position:absolute}
.track i{top:.35rem;height:.8rem;border-radius:.2rem;background:var(--bar);opacity:.35}
.track b{top:.45rem;width:.6rem;height:.6rem;margin-left:-.3rem;border-radius:50%;background:var(--bar);
border:1px solid var(--bg)}
.without .track i,.without .track b{background:var(--soft)}
.without>span:first-child{font-weight:400!important;color:var(--soft)}
.scale .track{border:0;height:1rem;margin-top:-.5rem}
.track em{font-style:normal;font-size:.8rem;color:var(--soft);transform:translateX(-50%)}
.track em:first-child{transform:none}
.track em:last-child{transform:translateX(-100%)}
.costs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(16rem,100%),1fr));gap:.9rem}
.cost{border:1px solid var(--line);border-radius:.7rem;background:var(--tile);padding:.8rem 1rem;break-inside:avoid}
.cost h3{margin:0 0 .5rem}
.cost li{display:grid;grid-template-columns:1fr auto;gap:0 .8rem;padding:.3rem 0}
.cost .bar{grid-column:1/-1;margin-top:.2rem}
.names{display:flex;flex-wrap:wrap;gap:.3rem 1.4rem;margin:.3rem 0 .6rem}
.names li::before{content:"";display:inline-block;width:1.4rem;border-top:.2rem solid;margin-right:.5rem;vertical-align:middle}
.plot{display:grid;grid-template-columns:auto 1fr;gap:.2rem .6rem}
.plot svg{width:100%;height:16rem;display:block}
.plot .grid{stroke:var(--line);stroke-width:1;vector-effect:non-scaling-stroke}
.plot polyline{fill:none;stroke:currentColor;stroke-width:2;vector-effect:non-scaling-stroke;stroke-linejoin:round}
.heights,.epochs{display:flex;justify-content:space-between;color:var(--soft);font-size:.85rem}
.heights{flex-direction:column;text-align:right;line-height:1}
.epochs{grid-column:2}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}.c5{color:var(--c5)}
.facts .long{grid-column:1/-1}
.names bdi{color:var(--ink)}
#table table+table{margin-top:1.5rem}
#table td,#table th{font-size:.9rem}
#table tbody th{min-width:7rem}
#table thead th{white-space:normal}
@media screen and (max-width:50rem){
.dots{grid-template-columns:1fr}
.dots li{padding:.5rem 0;gap:.1rem}
.dots li>span:last-child{order:-1}
.dots li>span:first-child{order:-2}
.plot svg{height:12rem}
}
"""
