#compdef baton
# zsh completion for baton: in a folder of $fpath as _baton, or source <(baton completion zsh)
_baton() {
    local line files word
    local -a found
    while IFS= read -r line; do
        if [[ $line == ':files' ]]; then
            files=yes
            continue
        fi
        word=${line%%$'\t'*}
        found+=("${word//:/\\:}:${${line#"$word"}#$'\t'}")
    done < <("${(Q)words[1]/#\~/$HOME}" __complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    (( $#found )) && _describe -V baton found
    if [[ -n $files ]]; then
        compset -P '--*='
        _files
    fi
}
if [[ $funcstack[1] == _baton ]]; then
    _baton "$@"
else
    compdef _baton baton
fi
