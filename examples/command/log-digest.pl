#!/usr/bin/perl
# An agent in Perl, without packages from elsewhere: counts the levels in the lines of a log.
#
#   CELERIAC_COMMANDS='{"log-digest": ["/srv/celeriac/examples/command/log-digest.pl"]}'
#
# Variables: `log`, the text; `keep`, how many of its errors to return (default 3).
use strict;
use warnings;
use IO::Handle;
use JSON::PP ();

my $json = JSON::PP->new->utf8->canonical;
my $true = JSON::PP::true;
STDOUT->autoflush(1);

sub tell_worker {
    my (%message) = @_;
    print {*STDOUT} $json->encode(\%message), "\n" or die "the worker has gone: $!";
    return;
}

# Ends the attempt. With retryable => $true, the execution is tried again.
sub give_up {
    my (%report) = @_;
    tell_worker(type => 'error', error => {retryable => JSON::PP::false, %report});
    exit 1;
}

# Whether the worker has said that the soft limit has passed; never waits for it.
sub is_late {
    my $ready = '';
    vec($ready, fileno(STDIN), 1) = 1;
    return 0 if !select($ready, undef, undef, 0);
    my $line = <STDIN>;
    return defined $line && $json->decode($line)->{type} eq 'soft_limit';
}

# After a cancellation the worker sends SIGTERM, and SIGKILL two seconds later.
local $SIG{TERM} = sub { print {*STDERR} "stopped\n"; exit 143 };

my $first = <STDIN>;
exit 0 if !defined $first;
my $job = $json->decode($first)->{job};
my ($log, $keep) = ($job->{variables}{log}, $job->{variables}{keep} // 3);
give_up(type => 'BadVariables', code => 'variables_invalid', message => 'log: must be a text')
    if !defined $log || ref $log;

my @lines = split /\n/, $log;
my (%levels, @errors);
my $complete = $true;
for my $number (0 .. $#lines) {
    if (is_late()) { $complete = JSON::PP::false; last }
    my ($level) = $lines[$number] =~ /\b(DEBUG|INFO|WARNING|ERROR)\b/ or next;
    $levels{$level}++;
    next if $level ne 'ERROR';
    push @errors, $lines[$number] if @errors < $keep;
    tell_worker(type => 'event', data => {name => 'error_found', data => {line => $number + 1}});
}
tell_worker(type => 'progress', done => scalar @lines, total => scalar @lines, note => 'read');
tell_worker(
    type => 'log', level => 'info', logger => 'digest', message => 'read the log',
    fields => {lines => scalar @lines},
);
tell_worker(
    type => 'result', value => {levels => \%levels, errors => \@errors, complete => $complete},
);
