#!/bin/sh
# Appends what happened to told.log beside this script: a sentence, and the event as
# it came, which a mail or a chat would get in place of the file.
{
	printf '%s %s: %s\n' "$BATON_TIME" "$BATON_NAME" "$BATON_MESSAGE"
	cat
} >> "$(dirname "$0")/told.log"
