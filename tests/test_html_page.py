"""Reports as pages. Reads: adc_features.html_page. Writes: HTML."""

from adc_features.html_page import write_html_page


def test_a_page_shows_its_tables_and_takes_no_text_for_html(tmp_path):
    """Counts have thousands, flags and texts stand as they are, an empty table says so."""
    rows = [{"Feature": "<b>", "Keys": 12_345, "Same": True}]
    write_html_page(
        tmp_path / "page.html", "A & B", verdict="1 < 2", tables={"Found": rows, "Lost": []}
    )
    page = (tmp_path / "page.html").read_text()
    assert "<h1>A &amp; B</h1><p>1 &lt; 2</p></header>" in page
    assert '<td>&lt;b&gt;</td><td class="number">12,345</td><td>True</td>' in page
    assert page.endswith("<h2>Lost</h2><p>None.</p></main></html>\n")
