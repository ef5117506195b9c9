#!/bin/sh
# An agent in POSIX shell and awk: counts the words of its prompt.
#
#   CELERIAC_COMMANDS='{"word-count": ["/srv/celeriac/examples/command/word-count.sh"]}'
#   celeriac agents create word-count --command word-count
#   celeriac tasks create count --agent word-count --prompt '{{ text }}'
#   celeriac run count --var text='One, two, three.'
set -eu

# The worker's first line is {"type":"start","job":{...}}.
IFS= read -r start

echo '{"type": "progress", "done": 0, "total": 1, "note": "counting"}'

# Within a JSON string every quote has a backslash before it, so this finds the key and no text.
words=$(printf '%s\n' "$start" | awk '
    BEGIN { key = "\"prompt\":\"" }
    {
        text = substr($0, index($0, key) + length(key))
        match(text, /^([^"\\]|\\.)*/)
        text = substr(text, 1, RLENGTH)
        gsub(/\\\\/, "x", text)       # a backslash
        gsub(/\\[nrtf]/, " ", text)   # white space
        print split(text, words)
    }')

echo "counted $words words" >&2      # what goes to stderr becomes log lines
printf '{"type": "result", "value": {"words": %d}}\n' "$words"
