"""Checks the links of built pages without a network: python3 check-links.py FOLDER

Each link to another page, picture, script or style must be a file of the folder, each fragment an id of its page, and no page may load
anything from elsewhere. Links to other sites are counted only. Prints what is dead; the last line is a count. Exit code 1 if any is.
"""
import os
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.ids, self.links = set(), []  # links: (address, whether the page loads it)
        with open(path, encoding="utf-8") as file:
            self.feed(file.read())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.update(attributes[name] for name in ("id", "name") if attributes.get(name))
        if attributes.get("href") is not None:
            self.links.append((attributes["href"], tag == "link"))
        if attributes.get("src"):
            self.links.append((attributes["src"], True))


root = os.path.abspath(sys.argv[1])
pages = {}
for folder, _, names in os.walk(root):
    for name in names:
        if name.endswith(".html"):
            path = os.path.join(folder, name)
            pages[path] = Page(path)

dead, checked, elsewhere = [], 0, 0
for path, page in sorted(pages.items()):
    def report(address, reason):
        dead.append(f"{os.path.relpath(path, root)}: {address}: {reason}")

    for address, loaded in page.links:
        parts = urlsplit(address)
        if parts.scheme == "data":
            continue
        if parts.scheme or parts.netloc:
            elsewhere += 1
            if loaded or parts.scheme == "file":
                report(address, "not a part of the site")
            continue
        checked += 1
        target = os.path.normpath(os.path.join(os.path.dirname(path), unquote(parts.path))) if parts.path else path
        if os.path.isdir(target):
            target = os.path.join(target, "index.html")
        if not target.startswith(root + os.sep) or not os.path.isfile(target):
            report(address, "no such file")
        elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
            report(address, "no such place in that page")

for line in dead:
    print(line)
print(f"{len(pages)} pages, {checked} links within, {elsewhere} to other sites, {len(dead)} dead")
sys.exit(1 if dead or not pages else 0)
