// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../src/interfaces/ICourt.sol";
import {IRegistry} from "../src/interfaces/IRegistry.sol";
import {Base} from "./helpers/Base.sol";
import {Deployer} from "./helpers/Deployer.sol";

/// @notice A Registry of any parameters and any court.
contract AnyRegistry {
    IRegistry.Params private _params;
    address public court;

    constructor(IRegistry.Params memory p, address court_) {
        (_params, court) = (p, court_);
    }

    function params() external view returns (IRegistry.Params memory) {
        return _params;
    }
}

/// @notice Parameters under which the Court does not come into being, and how they read afterwards.
contract CourtParamsTest is Base {
    function make(IRegistry.Params memory p, ICourt.Params memory c, string memory reason) private returns (ICourt) {
        address expected = vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 1);
        IRegistry any = IRegistry(address(new AnyRegistry(p, expected)));
        if (bytes(reason).length > 0) {
            vm.expectRevert(abi.encodeWithSelector(IRegistry.BadParams.selector, reason));
        }
        return Deployer.court(any, c);
    }

    function refuse(ICourt.Params memory c, string memory reason) private {
        make(parameters(), c, reason);
    }

    function test_what_was_deployed_can_be_read() public view {
        vm.assertEq(keccak256(abi.encode(court.params())), keccak256(abi.encode(courtParameters())), "parameters");
        vm.assertTrue(address(court.registry()) == address(registry), "registry");
        vm.assertEq(
            court.longestDispute(), 2 * (2 * (2 hours + 2 hours)) + 1 hours, "two rounds of two draws, an appeal"
        );
    }

    function test_another_registry_s_court_is_refused() public {
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadParams.selector, "not the court of this registry"));
        Deployer.court(registry, courtParameters());
    }

    function test_what_would_let_stake_or_seats_escape_a_dispute_is_refused() public {
        ICourt.Params memory c = courtParameters();
        uint40 disputed = WINDOW + uint40(court.longestDispute());
        IRegistry.Params memory p = parameters();
        (p.unstakeDelay, p.seatDelay) = (GRACE + disputed, disputed + 1);
        make(p, c, "unstakeDelay is too short");
        (p.unstakeDelay, p.seatDelay) = (GRACE + disputed + 1, disputed);
        make(p, c, "seatDelay is too short");
        (p.unstakeDelay, p.seatDelay) = (GRACE + disputed + 1, disputed + 1);
        make(p, c, "");
        p.receiptTime = p.unstakeDelay;
        make(p, c, "unstakeDelay is too short for receipts");
    }

    function test_what_would_stop_a_jury_or_reward_a_quarrel_is_refused() public {
        ICourt.Params memory c = courtParameters();
        c.jurySize = 0;
        refuse(c, "jury sizes");
        c = courtParameters();
        c.appealJurySize = c.jurySize;
        refuse(c, "jury sizes");
        c = courtParameters();
        c.juryDelay = 0;
        refuse(c, "zero time");
        c = courtParameters();
        c.voteTime = 0;
        refuse(c, "zero time");
        c = courtParameters();
        c.bond = 4 * c.drawReward;
        refuse(c, "bond must pay for all draws");
        c = courtParameters();
        c.appealBond = 0;
        refuse(c, "bond must pay for all draws");
        c = courtParameters();
        c.juryBps = 8500;
        refuse(c, "some of the losers' money must be burned");
    }
}
