# Medians by step and place, of lines PLACE, STEP and a number, with tabs between them.
BEGIN { FS = "\t" }
{ all[$1 FS $2] = all[$1 FS $2] " " $3; if (!($1 in p)) { p[$1]; place[++places] = $1 }
  if (!($2 in s)) { s[$2]; name[++names] = $2 } }
function median(text,   v, n, i, j, t) {
    n = split(text, v, " ")
    for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j - 1] + 0 > v[j] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
    return n ? sprintf("%.2f", n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2) : "-"
}
END {
    printf "%-44s", ""; for (i = 1; i <= places; i++) { n = split(place[i], part, "/"); printf "%12s", part[n] } print ""
    for (j = 1; j <= names; j++) {
        printf "%-44s", name[j]
        for (i = 1; i <= places; i++) printf "%12s", median(all[place[i] FS name[j]])
        print ""
    }
}
