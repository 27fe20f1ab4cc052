#!/usr/bin/env bash
# What the jobs of scripts/vm share, inside of the machine: checks that are counted, a project, and the loop of a user.
passed=0 failed=0 skipped=0

title() { printf '\n== %s\n' "$*"; }

pass() { passed=$((passed + 1)) && echo "ok      $1"; }

fail() { # NAME OUTPUT
    failed=$((failed + 1))
    printf 'FAILED  %s\n' "$1"
    tail -n 25 <<<"$2" | sed 's/^/        /'
}

skip() { skipped=$((skipped + 1)) && echo "skipped $1: $2"; }

# The command must end with this exit status, and what it says must match this pattern.
says() { # NAME STATUS PATTERN COMMAND...
    local out code=0
    out=$("${@:4}" 2>&1 </dev/null) || code=$?
    if [[ $code == "$2" ]] && grep -qE -- "$3" <<<"$out"; then pass "$1"; else fail "$1" "exit $code: $out"; fi
}

check() { says "$1" 0 '' "${@:2}"; } # NAME COMMAND...

# Everything but the root itself, and what git and calve keep in it.
entries() { find . -mindepth 1 \( -path ./.git -o -path ./.calve \) -prune -o "$@"; }
listing() { # DIR
    cd "$1" || return
    entries -type d -printf '%P %m %T@\n' -o -printf '%P %y %m %n %s %T@ %l\n' | sort
    entries -type f -exec sha256sum {} + | sort
    entries \! -type l -print0 | sort -z | xargs -0 getfattr -m user. -d
}
same() { diff <(listing "$1") <(listing "$2"); } # DIR DIR

# A git project with what a tree may hold, and dependencies that git ignores.
project() { # DIR
    mkdir -p "$1"/{src,node_modules/left/deep} && cd "$1" || return
    git init -q
    local i
    for i in {1..60}; do head -c $((i * 300)) /dev/urandom >src/f"$i"; cp src/f"$i" node_modules/left/deep/g"$i"; done
    head -c 6M /dev/urandom >node_modules/big
    ln src/f1 src/same-as-f1
    ln -s ../src/f2 node_modules/link
    truncate -s 3M node_modules/hole && echo end >>node_modules/hole
    : >'src/a name with spaces and ü'
    chmod 750 src/f3
    chmod 600 src/f4
    setfattr -n user.note -v text src/f5 2>/dev/null
    touch -d '2020-02-02 02:02:02.123456789' src/f6
    echo node_modules >.gitignore
    git add -A && git commit -qm first
}

# What a user does in DIR, where files are reflinked or copied. The second folder is for the store, if it is elsewhere.
user_loop() { # DIR reflink|copy [STORE]
    local dir=$1 a b app=$1/app trees=${3:+$(dirname "$3")/$(basename "$3" .calve).worktrees} i killed
    trees=${trees:-$1/app.worktrees} a=$trees/a b=$trees/b
    project "$app"
    if [[ $2 == reflink ]]; then check doctor calve doctor "$dir"; else says 'doctor: no reflinks' 3 '' calve doctor "$dir"; fi
    check clone calve clone src ../cloned
    check 'clone: the same' same "$app/src" "$dir/cloned"
    check init calve init ${3:+--store "$3"}
    check start calve start a b
    check 'start: the same' same "$app" "$a"
    check 'git: clean' bash -c "[[ ! \$(git -C '$a' status --porcelain) ]]"
    check 'status: clean' calve status a
    echo more >>"$a/src/f7" && rm "$a/src/f8" && echo new >"$a/node_modules/new"
    says 'status: three changes' 3 'M src/f7' calve status a
    check 'isolated' bash -c "! grep -q more src/f7 && [[ -e src/f8 && ! -e node_modules/new ]]"
    check snapshot calve -C "$a" snapshot edited
    check 'restore a snapshot' calve restore edited b
    check 'restore: the same' same "$a" "$b"
    echo mine >>"$b/src/f9"
    check 'restore the base' calve restore b
    check 'restore: the same again' same "$a" "$b"
    check undo calve undo b
    check 'undo: the change is back' grep -q mine "$b/src/f9"
    check drop calve drop --force b
    check 'undo of the drop' calve undo b
    check 'undo: the worktree is back' grep -q mine "$b/src/f9"
    check du calve du
    check 'drop both' calve drop --force --discard a b
    check pack calve store pack --all
    check 'start from a pack' calve start --from edited c
    check 'the packed content' grep -q more "$trees/c/src/f7"
    check 'a remote' bash -c "calve remote init 'file://$dir/remote' && calve remote add r 'file://$dir/remote'"
    check push calve push --to r edited
    check checkout calve checkout "file://$dir/remote" edited "$dir/fetched"
    check 'checkout: the same' same "$trees/c" "$dir/fetched"
    for i in {1..5}; do
        timeout -s KILL "0.$((RANDOM % 9 + 1))" calve start "k$i" >/dev/null 2>&1
        echo "$i" >>"$trees/c/src/f10"
        timeout -s KILL "0.$((RANDOM % 9 + 1))" calve -C "$trees/c" snapshot >/dev/null 2>&1
        timeout -s KILL "0.$((RANDOM % 9 + 1))" calve restore edited c >/dev/null 2>&1
    done 2>/dev/null
    check 'restore after kills' calve restore edited c
    check 'start after kills' calve start last
    check 'start after kills: the same' same "$app" "$trees/last"
    check gc calve store gc --grace 0s
    check verify calve store verify
    check list calve list
    # A background process deletes what a killed command left.
    for i in {1..60}; do
        killed=$(find "$dir" "$trees" -maxdepth 1 -name '.calve*' | head -n 3)
        [[ $killed ]] || break
        sleep 1
    done
    check "nothing is left of the kills${killed:+: $killed}" test -z "$killed"
    cd /
}

# Runs the test programs that came along. They find the filesystem that they try in the variables.
own_tests() { # DIR FILESYSTEM reflink|copy
    local program filters out line p f
    [[ -e /vm/programs ]] || { skip "the project's own tests on $2" 'left out by --quick'; return; }
    while read -r program filters; do
        : >/tmp/not-run
        # shellcheck disable=SC2086 # A filter a word.
        out=$(cd "$(</vm/source)" && CALVE_TEST_DIR=$1 CALVE_FS=$2 CALVE_EXPECT=$3 CALVE_NOT_RUN=/tmp/not-run "$program" $filters 2>&1 </dev/null)
        read -r p f < <(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed.*/\1 \2/p' <<<"$out") || { fail "$program" "$out"; continue; }
        # For cargo, a test that reports that it could not run has passed.
        p=$((p - $(wc -l </tmp/not-run)))
        echo "tests   $(basename "${program%-*}") on $2: $p passed, $f failed"
        passed=$((passed + p)) failed=$((failed + f))
        ((!f)) || sed -n '/^failures:/,$p' <<<"$out" | head -n 80
        while read -r line; do skip "${line#NOT RUN: }" ''; done </tmp/not-run
    done </vm/programs
}
