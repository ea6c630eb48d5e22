"""Scripts for bash, zsh and fish, which complete a word by what `psych-ray completion candidates` prints.

A candidate is the whole word, with a space after it unless it is to be continued. Data only.
"""

from __future__ import annotations

_BASH = r"""_psych_ray() {
    local IFS=$'\n' line word kept candidate
    local -a words
    line=${COMP_LINE:0:COMP_POINT}
    IFS=$' \t' read -r -a words <<< "$line"
    word=${line##*[[:space:]]}
    [[ -n $word ]] && unset 'words[${#words[@]}-1]'
    # readline replaces what follows the last of these characters, = and : among them
    kept=${word%"${word##*["$COMP_WORDBREAKS"]}"}
    COMPREPLY=()
    while read -r candidate; do
        COMPREPLY+=("${candidate#"$kept"}")
    done < <("$1" completion candidates -- "${words[@]:1}" "$word" 2> /dev/null)
}
complete -o nospace -F _psych_ray psych-ray
"""

_ZSH = r"""#compdef psych-ray
_psych_ray() {
    local -a found asked
    asked=("${(@Q)words[1]}" completion candidates -- "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}")
    found=("${(@f)$("${(@)asked}" 2> /dev/null)}")
    found=("${(@)found:#}")
    local -a continued=("${(@)found:#* }") whole=("${(@)${(@M)found:#* }% }")
    compadd -S '' -a continued
    compadd -a whole
}
if [[ $funcstack[1] == _psych_ray ]]; then
    _psych_ray "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef _psych_ray psych-ray
fi
"""

_FISH = r"""function __psych_ray_candidates
    set -l words (commandline -opc | string unescape)
    $words[1] completion candidates -- $words[2..-1] (commandline -ct | string unescape) 2> /dev/null \
        | string trim --right
end
complete -c psych-ray -f -a '(__psych_ray_candidates)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
