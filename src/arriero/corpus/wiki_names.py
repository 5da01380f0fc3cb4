"""Names by which the Wikipedias of LLaMA's 20 languages call what is no part of an article's text."""

SECTIONS_OF_REFERENCES = {
    "bg": "източници|външни препратки|вижте също|бележки|литература|бележки и източници|библиография",
    "ca": "referències|enllaços externs|vegeu també|bibliografia|notes|notes i referències",
    "cs": "reference|externí odkazy|související články|literatura|poznámky|odkazy",
    "da": "referencer|eksterne henvisninger|se også|kilder|litteratur|noter|eksterne links",
    "de": "einzelnachweise|weblinks|siehe auch|literatur|quellen|anmerkungen|belege|fußnoten",
    "en": "references|external links|see also|further reading|notes|bibliography|sources|footnotes|citations|"
    "notes and references|references and notes|works cited",
    "es": "referencias|enlaces externos|véase también|bibliografía|notas|notas y referencias|fuentes",
    "fr": "références|liens externes|voir aussi|bibliographie|notes et références|annexes|notes|articles connexes|"
    "lien externe",
    "hr": "izvori|vanjske poveznice|povezani članci|bilješke|literatura|poveznice",
    "hu": "források|külső hivatkozások|lásd még|jegyzetek|irodalom|további információk|kapcsolódó szócikkek",
    "it": "note|collegamenti esterni|voci correlate|bibliografia|altri progetti",
    "nl": "externe links|externe link|zie ook|bronnen|literatuur|referenties|bronnen, noten en/of referenties",
    "pl": "przypisy|linki zewnętrzne|zobacz też|bibliografia|uwagi",
    "pt": "referências|ligações externas|ver também|bibliografia|notas e referências|notas",
    "ro": "referințe|legături externe|vezi și|bibliografie|note|note de subsol",
    "ru": "источники|ссылки|см. также|примечания|литература",
    "sl": "viri|zunanje povezave|glej tudi|sklici|opombe|literatura",
    "sr": "извори|спољашње везе|види још|референце|литература|напомене",
    "sv": "referenser|externa länkar|se även|källor|litteratur|noter|vidare läsning",
    "uk": "джерела|посилання|див. також|примітки|література",
}
"""Titles of sections of notes, sources and links, in lower case, by language."""
SECTIONS = frozenset(title for titles in SECTIONS_OF_REFERENCES.values() for title in titles.split("|"))

_FILES = (
    "file|image|файл|картинка|fitxer|imatge|soubor|fil|billede|datei|bild|archivo|imagen|fichier|datoteka|slika|fájl|kép|"
    "immagine|bestand|afbeelding|plik|grafika|ficheiro|imagem|arquivo|fișier|imagine|изображение|датотека|слика|зображення"
)
_CATEGORIES = (
    "category|категория|categoria|kategorie|kategori|categoría|catégorie|kategorija|kategória|categorie|kategoria|"
    "категорија|категорія"
)
NAMESPACES = frozenset(f"{_FILES}|{_CATEGORIES}".split("|"))
"""Links into these show no text: files and categories, in lower case."""
FILES = (".jpg", ".jpeg", ".png", ".svg", ".gif", ".tif", ".tiff", ".webp", ".ogg", ".oga", ".ogv", ".webm", ".djvu")
"""Ends of links behind a namespace that show no text, whatever the wiki calls files."""
_PROJECT_NAMES = "wp mw voy wmf wmc doi rfc"
PROJECTS = frozenset(_PROJECT_NAMES.split())
"""Two or three letters before a colon that name no language: the link is shown."""
