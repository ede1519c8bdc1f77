#!/bin/sh
# Stands in for launchctl. Called through a link in a folder of the test's own: notes its arguments in
# `calls` there, and plays the first file of `plays/` whose first line, a pattern, matches them. The
# second line is the exit code, the rest what is printed. A file is played once, unless its name ends
# in .always.
dir=$(dirname "$0")
printf '%s\n' "$*" >>"$dir/calls"
for play in "$dir"/plays/*; do
    [ -f "$play" ] || continue
    { read -r pattern && read -r code; } <"$play"
    # shellcheck disable=SC2254 -- it is a pattern
    case "$*" in
        $pattern) ;;
        *) continue ;;
    esac
    if [ "$code" = 0 ]; then tail -n +3 "$play"; else tail -n +3 "$play" >&2; fi
    case "$play" in *.always) ;; *) rm "$play" ;; esac
    exit "$code"
done
echo "Could not find service in domain for port" >&2
exit 113
