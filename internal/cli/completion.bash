# bash completion for baton: source <(baton completion bash)
_baton() {
    local line files= cur=${COMP_WORDS[COMP_CWORD]}
    [[ $cur == '=' ]] && cur=
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ $line == ':files' ]]; then
            files=yes
        else
            COMPREPLY+=("$(printf '%q' "${line%%$'\t'*}")")
        fi
    done < <("${COMP_WORDS[0]/#\~/$HOME}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    if [[ $files ]]; then
        compopt -o filenames
        while IFS= read -r line; do
            COMPREPLY+=("$line")
        done < <(compgen -f -- "$cur")
    fi
}
complete -F _baton baton
