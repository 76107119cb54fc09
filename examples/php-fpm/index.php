<?php
// A script as any other. Nothing in it knows of baton.

if (str_starts_with($_SERVER['REQUEST_URI'], '/slow')) {
    usleep(300_000);
}
header('Content-Type: text/plain');
header('X-Generation: ' . getenv('BATON_GENERATION'));
echo "hello from php-fpm\n";
