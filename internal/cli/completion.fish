# fish completion for baton: as ~/.config/fish/completions/baton.fish
function __baton_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for line in ($words[1] __complete $words[2..-1] "$current" 2>/dev/null)
        if test "$line" = :files
            set -l flag (string match -r '^--[^=]*=' -- $current)
            for path in (__fish_complete_path (string replace -r '^--[^=]*=' '' -- $current))
                echo "$flag$path"
            end
        else
            echo "$line"
        end
    end
end
complete -c baton -e
complete -c baton -f -a '(__baton_complete)'
