"""An explorer of codes, features and decisions, in a browser. Reads: runs, Feast repositories,
promotions. Writes: an index beside the publications; pages on request.

A page is a function from a place and the parameters of its address to facts, a plain dict. The same
facts are the page (a template), the JSON behind it and the points of its charts, in the service and
in an export; so they cannot differ. Every address is `/PAGE?name=value`: an id never becomes part
of a path.

`building` makes the index of a publication once: items by popularity in SQLite with full-text
search, the codes of every snapshot in that order as one memory-mapped array, the items of each code
by weight, who shares all codes (`crowding`), and the items' vectors (`vectors`). `index` answers
from it, together with the packed snapshots, and never loads all. Feast is needed by decisions and
by health, where it is loaded in the background, and to read a repository's vectors into an index.

    place -> building -> index -> find, code_pages, changes, decision, health -> pages
    pages -> rendering -> app, export
"""
