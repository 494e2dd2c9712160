# SPDX-License-Identifier: Apache-2.0
# Primes with a hash of lists, sorted text and a running digest.
use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
$| = 1;
my $limit = shift;
my (%composite, @primes);
for my $n (2 .. $limit) {
    if (my $factors = delete $composite{$n}) {
        push @{$composite{$n + $_}}, $_ for @$factors;
    } else {
        push @primes, $n;
        $composite{$n * $n} = [$n];
    }
    print "at $n\n" if $n % int($limit / 10) == 0;
}
print scalar(@primes), " primes, last $primes[-1]\n", sha256_hex(join ",", sort { "$a" cmp "$b" } @primes), "\n";
