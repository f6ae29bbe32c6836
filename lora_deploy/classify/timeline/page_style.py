"""What the page of a timeline needs beside the style of all pages: strips of labels over time."""

STYLE = """
.legend{display:flex;flex-wrap:wrap;gap:.35rem 1.4rem;margin:.6rem 0 1rem}
.legend small{white-space:nowrap}
.dot,.strip a{background:oklch(.52 var(--much) var(--hue))}
.dot{display:inline-block;width:.8rem;height:.8rem;border-radius:.2rem;margin-right:.45rem;vertical-align:-.05rem}
.unknown{background:repeating-linear-gradient(135deg,#6b7280,#6b7280 .25rem,#7d8593 .25rem,#7d8593 .5rem)!important}
.strips{display:grid;grid-template-columns:auto 1fr;gap:.35rem .7rem;align-items:center}
.strips time{color:var(--soft);font-size:.85rem;text-align:right}
.strip{position:relative;height:2.4rem;border-radius:.35rem;overflow:hidden;background:var(--line)}
.strip a{position:absolute;top:0;bottom:0;min-width:2px;padding:0 .35rem;overflow:hidden;white-space:nowrap;
text-overflow:ellipsis;line-height:2.4rem;font-size:.85rem;color:#fff;text-decoration:none}
.strip a.thin{padding:0}
.strip a:hover,.strip a:focus-visible{outline:3px solid var(--ink);outline-offset:-3px}
.axis{display:flex;justify-content:space-between;color:var(--soft);font-size:.85rem;margin-top:.3rem}
.rest{background:none}
.when{display:flex;align-items:center;gap:.8rem;scroll-margin-top:1rem}
.when img{width:4.5rem;height:4.5rem;object-fit:cover;border-radius:.35rem;background:var(--line)}
.when i{width:4.5rem;flex:none}
.when small{display:none}
#segments td{vertical-align:middle}
#segments tr:has(:target)>*{background:var(--tile)}
#segments .bar{min-width:6rem}
.notice{background:var(--warn-bg);color:var(--warn);border-radius:.6rem;padding:.7rem .9rem;max-width:none}
@media screen and (max-width:50rem){
.strip{height:2rem}
.strip a{line-height:2rem;font-size:.8rem}
.strip a.short{font-size:0;padding:0}
.when i{display:none}
.when small{display:block;font-weight:400}
}
@media print{.strip a,.dot{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
